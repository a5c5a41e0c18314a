"""bpr_loss against reference.py."""

import pytest
import torch
from csr_blocks import normal
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.ops.bpr_loss import bpr_loss

pytestmark = pytest.mark.usefixtures("poison")

# users, items, d, batch: odd, every id many times, one of each, an empty batch, no columns
SHAPES = [(41, 401, 64, 101), (1271, 41, 33, 17), (3, 2, 130, 500), (1, 1, 5, 1), (7, 9, 4, 0), (7, 9, 0, 5)]


def batch_of(n_users, n_items, d, batch, dtype=torch.float64, scale=1.0):
    random = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, n, (batch,), generator=random) for n in (n_users, n_items, n_items)]
    user_emb = normal(n_users, d, dtype=dtype, seed=1, scale=scale).requires_grad_()
    return user_emb, normal(n_items, d, dtype=dtype, seed=2, scale=scale).requires_grad_(), ids


def with_gradients(op, user_emb, item_emb, ids):
    loss = op(user_emb, item_emb, *ids)
    return [loss.detach(), *torch.autograd.grad(loss * 3, (user_emb, item_emb))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[3]])
def test_values_and_gradients(shape, scale, dtype):
    check_values_and_gradients(lambda *inputs: with_gradients(bpr_loss, *inputs), shape, scale, dtype)


def check_values_and_gradients(run, shape, scale, dtype):
    """run(user_emb, item_emb, ids) gives what `with_gradients` does, as exactly as plain PyTorch."""
    user_emb, item_emb, ids = batch_of(*shape, dtype, scale)
    exact = [x.detach().double().requires_grad_() for x in (user_emb, item_emb)]
    actual = run(user_emb, item_emb, ids)
    plain = with_gradients(reference.bpr_loss, user_emb, item_emb, ids)
    truth = with_gradients(reference.bpr_loss, *exact, ids)
    assert_as_accurate(actual[0], plain[0], truth[0])
    # Contributions of an item that is both positive and negative cancel: what remains is as exact as they are.
    units = 64 if dtype == torch.float64 else 4
    tiny = units * torch.finfo(dtype).eps * max(x.abs().max().item() for x in exact) if shape[2] else 0
    for parts in zip(actual[1:], plain[1:], truth[1:], strict=True):
        assert_as_accurate(*parts, tiny)


def test_empty_batch_has_loss_nan_and_gradient_zero():
    user_emb, item_emb, ids = batch_of(7, 9, 4, 0)
    loss = bpr_loss(user_emb, item_emb, *ids)
    assert loss.isnan() and reference.bpr_loss(user_emb, item_emb, *ids).isnan()
    assert all(not grad.any() for grad in torch.autograd.grad(loss, (user_emb, item_emb)))


@pytest.mark.parametrize("margin", [-1e4, -100.0, -88.0, 0.0, 17.0, 88.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margins_beyond_the_range_of_exp(margin, dtype):
    user_emb = torch.tensor([[margin]], dtype=dtype, requires_grad=True)
    item_emb = torch.tensor([[1.0], [0.0]], dtype=dtype, requires_grad=True)
    ids = [torch.tensor([i]) for i in (0, 0, 1)]
    actual, plain = (with_gradients(op, user_emb, item_emb, ids) for op in (bpr_loss, reference.bpr_loss))
    for pair in zip(actual, plain, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-35)  # float32: exp is 0 where it would be denormal


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced ids"])
def test_strides(strides):
    user_emb, item_emb, ids = batch_of(9, 11, 5, 20)
    if strides == "transposed":
        user_emb, item_emb = (x.detach().T.contiguous().T.requires_grad_() for x in (user_emb, item_emb))
    elif strides == "expanded":
        user_emb = user_emb.detach()[:1].expand(9, 5).requires_grad_()
    else:
        ids = [torch.stack((i, i.flip(0)), 1)[:, 0] for i in ids]
    actual, plain = (with_gradients(op, user_emb, item_emb, ids) for op in (bpr_loss, reference.bpr_loss))
    for pair in zip(actual, plain, strict=True):
        torch.testing.assert_close(*pair)


def test_gradcheck():
    user_emb, item_emb, ids = batch_of(5, 7, 3, 20)
    assert torch.autograd.gradcheck(lambda u, i: bpr_loss(u, i, *ids), (user_emb, item_emb))


def test_second_derivative_is_refused():
    user_emb, item_emb, ids = batch_of(5, 7, 3, 20)
    (grad,) = torch.autograd.grad(bpr_loss(user_emb, item_emb, *ids), user_emb, create_graph=True)
    with pytest.raises(RuntimeError, match="bpr_loss has no second derivative"):
        grad.sum().backward()


def test_opcheck():
    user_emb, item_emb, ids = batch_of(5, 7, 3, 20)
    torch.library.opcheck(torch.ops.mmssl_fast.bpr_loss, (user_emb, item_emb, *ids))
    slope = normal(20, seed=5)
    torch.library.opcheck(torch.ops.mmssl_fast.bpr_loss_bwd, (user_emb.detach(), item_emb.detach(), *ids, slope))


def test_compiles_fullgraph():
    user_emb, item_emb, ids = batch_of(41, 101, 16, 33)
    compiled = torch.compile(bpr_loss, fullgraph=True, backend="aot_eager")
    for pair in zip(
        with_gradients(compiled, user_emb, item_emb, ids),
        with_gradients(bpr_loss, user_emb, item_emb, ids),
        strict=True,
    ):
        torch.testing.assert_close(*pair)


def test_same_bits_for_any_thread_count(threads):
    user_emb, item_emb, ids = batch_of(401, 1271, 64, 4001, torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(with_gradients(bpr_loss, user_emb, item_emb, ids))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("which, name, rows", [(0, "users", 5), (1, "pos", 7), (2, "neg", 7)])
@pytest.mark.parametrize("bad", [-1, 10**12, "size"])
def test_ids_out_of_range_are_an_index_error(which, name, rows, bad):
    user_emb, item_emb, ids = batch_of(5, 7, 3, 20)
    ids[which][4] = bad = rows if bad == "size" else bad
    table = "user_emb" if which == 0 else "item_emb"
    with pytest.raises(IndexError, match=rf"^bpr_loss: {name}\[4\] is {bad}, but {table} has {rows} rows"):
        bpr_loss(user_emb, item_emb, *ids)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"item_emb": torch.zeros(7, 4)}, r"must be \[rows, d\] with the same d, got \[5, 3\] and \[7, 4\]"),
        (
            {"item_emb": torch.zeros(7, 3).double()},
            "user_emb and item_emb must have the same dtype, got Float and Double",
        ),
        ({"user_emb": torch.zeros(5, 3).half(), "item_emb": torch.zeros(7, 3).half()}, "values must be float32"),
        ({"pos": torch.zeros(3, dtype=torch.int64)}, r"pos must be int64 \[2\], as long as users, got Long \[3\]"),
        ({"neg": torch.zeros(2)}, r"neg must be int64 or int32 \[B\], got float32"),
        ({"users": torch.zeros(2, 1, dtype=torch.int64)}, r"users must be int64 \[B\], got \[2, 1\]"),
    ],
)
def test_refuses(change, message):
    ids = {name: torch.zeros(2, dtype=torch.int64) for name in ("users", "pos", "neg")}
    arguments = {"user_emb": torch.zeros(5, 3), "item_emb": torch.zeros(7, 3)} | ids | change
    with pytest.raises(ValueError, match="^bpr_loss: .*" + message):
        bpr_loss(**arguments)
