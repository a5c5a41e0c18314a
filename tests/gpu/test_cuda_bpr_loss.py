"""csrc/cuda/bpr_loss on the emulator, against reference.py."""

import pytest
import torch
from test_bpr_loss import SHAPES, batch_of, check_values_and_gradients, with_gradients

from mmssl_fast import reference

pytestmark = pytest.mark.usefixtures("poison")


def emulated_gradients(emulated, user_emb, item_emb, ids):
    """What test_bpr_loss.with_gradients returns, from the kernels."""
    user_emb, item_emb = user_emb.detach(), item_emb.detach()
    loss, slope = emulated.bpr_loss(user_emb, item_emb, *ids)
    return [loss, *emulated.bpr_loss_bwd(user_emb, item_emb, *ids, slope * 3 / max(1, len(slope)))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("shape", [*[s for s in SHAPES if s[3]], (41, 41, 300, 60)])
def test_values_and_gradients(emulated, shape, scale, dtype):
    check_values_and_gradients(lambda *inputs: emulated_gradients(emulated, *inputs), shape, scale, dtype)


@pytest.mark.parametrize("margin", [-1e4, -100.0, -88.0, 0.0, 17.0, 88.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margins_beyond_the_range_of_exp(emulated, margin, dtype):
    user_emb = torch.tensor([[margin]], dtype=dtype, requires_grad=True)
    item_emb = torch.tensor([[1.0], [0.0]], dtype=dtype, requires_grad=True)
    ids = [torch.tensor([i]) for i in (0, 0, 1)]
    actual = emulated_gradients(emulated, user_emb, item_emb, ids)
    for pair in zip(actual, with_gradients(reference.bpr_loss, user_emb, item_emb, ids), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-35)


def test_empty_batch_has_loss_nan_and_gradient_zero(emulated):
    loss, *grads = emulated_gradients(emulated, *batch_of(7, 9, 4, 0))
    assert loss.isnan() and all(not grad.any() for grad in grads)


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced", "sliced ids"])
def test_strides(emulated, strides):
    user_emb, item_emb, ids = batch_of(9, 11, 5, 20)
    expected = with_gradients(reference.bpr_loss, user_emb, item_emb, ids)
    user_emb, item_emb = user_emb.detach(), item_emb.detach()
    if strides == "transposed":
        user_emb, item_emb = (x.T.contiguous().T for x in (user_emb, item_emb))
    elif strides == "sliced":
        user_emb, item_emb = (torch.cat((x, x), 1)[:, :5] for x in (user_emb, item_emb))
    elif strides == "sliced ids":
        ids = [torch.stack((i, i.flip(0)), 1)[:, 0] for i in ids]
    else:
        user_emb = user_emb[:1].expand(9, 5)
        expected = with_gradients(reference.bpr_loss, user_emb.clone().requires_grad_(), item_emb.requires_grad_(), ids)
    for pair in zip(emulated_gradients(emulated, user_emb, item_emb, ids), expected, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("bad", [-1, 10**12, 7])
def test_ids_out_of_range_stop_the_kernels(emulated, which, bad):
    user_emb, item_emb, ids = batch_of(7, 7, 3, 20)
    slope = torch.ones(20, dtype=torch.float64)
    ids[which][4] = bad
    with pytest.raises(RuntimeError, match="device check failed"):
        emulated.bpr_loss(user_emb.detach(), item_emb.detach(), *ids)
    with pytest.raises(RuntimeError, match="device check failed"):
        emulated.bpr_loss_bwd(user_emb.detach(), item_emb.detach(), *ids, slope)


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
        ({"users": torch.zeros(2, 1, dtype=torch.int64)}, r"users must be int64 \[B\], got \[2, 1\]"),
    ],
)
def test_refuses(emulated, change, message):
    ids = {name: torch.zeros(2, dtype=torch.int64) for name in ("users", "pos", "neg")}
    arguments = {"user_emb": torch.zeros(5, 3), "item_emb": torch.zeros(7, 3)} | ids | change
    with pytest.raises(ValueError, match="^bpr_loss: .*" + message):
        emulated.bpr_loss(**arguments)
