"""cosine_block against the masked, normalised product formed by plain PyTorch."""

import pytest
import torch
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows
from mmssl_fast.ops.cosine_block import cosine_block

pytestmark = pytest.mark.usefixtures("poison")

# rows, items, d, share of items seen
SHAPES = [
    (41, 401, 64, 0.05),
    (1, 1271, 41, 0.3),
    (65, 2049, 8, 0.0),
    (1100, 300, 5, 0.1),
    (7, 1, 3, 0.5),
    (1, 1, 1, 0.0),
    (9, 30, 4, 1.0),
    (0, 5, 3, 0.5),
    (4, 0, 3, 0.5),
    (3, 5, 0, 0.5),
]


def factors(rows, items, d, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(n, d, dtype=torch.float64, generator=random).to(dtype).requires_grad_() for n in (rows, items)
    )


def seen_rows(rows, items, share, index=torch.int64, seed=1):
    present = torch.rand(rows, items, generator=torch.Generator().manual_seed(seed)) < share
    if rows > 2:
        present[1] = False
        present[2] = True
    crow = torch.zeros(rows + 1, dtype=torch.int64)
    crow[1:] = present.sum(1).cumsum(0)
    return SeenRows(crow, present.nonzero()[:, 1].to(index))


def value_and_grads(op, u, v, *options):
    block = op(u, v, *options)
    weight = torch.linspace(-1, 1, block.numel(), dtype=torch.float64).view_as(block).to(block.dtype)
    return (block.detach(), *torch.autograd.grad(block, (u, v), weight))


def wide(*tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind, row_l2", [("cosine", False), ("cosine", True), ("dot", False), ("dot", True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_block_values_and_gradients(shape, kind, row_l2, dtype):
    rows, items, d, share = shape
    u, v = factors(rows, items, d, dtype)
    seen = seen_rows(rows, items, share, torch.int32 if rows % 2 else torch.int64)
    actual = value_and_grads(cosine_block, u, v, seen, kind, row_l2)
    plain = value_and_grads(reference.cosine_block, u, v, seen, kind, row_l2)
    truth = value_and_grads(reference.cosine_block, *wide(u, v), seen, kind, row_l2)
    for parts in zip(actual, plain, truth, strict=True):
        # Gradients cancel, to nothing for one item or d = 1: then the size of their parts is what rounding goes by.
        scale = max([1.0, *(x.abs().max().item() for x in parts[2:] if x.numel())])
        units = 64 if dtype == torch.float64 else 4
        assert_as_accurate(*parts, tiny=units * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize("row_l2", [False, True])
def test_cosine_block_without_seen_items(row_l2):
    u, v = factors(41, 401, 16)
    for a, b in zip(
        value_and_grads(cosine_block, u, v, None, "cosine", row_l2),
        value_and_grads(reference.cosine_block, u, v, None, "cosine", row_l2),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("row_l2", [False, True])
def test_cosine_block_zero_rows(row_l2, kind, dtype):
    u, v = factors(6, 50, 4, dtype)
    with torch.no_grad():
        u[0] = 0
        v[7] = 0
    seen = seen_rows(6, 50, 0.1)  # row 2: every item seen
    block, u_grad, v_grad = value_and_grads(cosine_block, u, v, seen, kind, row_l2)
    for x in (block, u_grad, v_grad):
        assert x.isfinite().all()
    assert (block[[0, 2]] == 0).all() and (block[:, 7] == 0).all()
    assert (u_grad[2] == 0).all()
    if kind == "cosine":
        assert (u_grad[0] == 0).all() and (v_grad[7] == 0).all()
    if row_l2:
        assert (u_grad[0] == 0).all()
        length = block.double().norm(dim=1)
        torch.testing.assert_close(length[[1, 3, 4, 5]], torch.ones(4, dtype=torch.float64), rtol=1e-2, atol=0)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_cosine_block_features_of_extreme_size(scale):
    u, v = factors(41, 401, 16, torch.float32)
    u, v = (u * scale).detach().requires_grad_(), (v / scale).detach().requires_grad_()
    seen = seen_rows(41, 401, 0.1)
    block, u_grad, v_grad = value_and_grads(cosine_block, u, v, seen, "cosine", True)
    truth = value_and_grads(reference.cosine_block, *wide(u, v), seen, "cosine", True)
    for actual, expected, unit in ((block, truth[0], 1), (u_grad, truth[1], scale), (v_grad, truth[2], 1 / scale)):
        torch.testing.assert_close(actual.double() * unit, expected * unit, rtol=1e-4, atol=1e-5)


def test_cosine_block_length_of_tiny_rows():
    """Products near 1e-24: their squares are no floats."""
    u, v = factors(5, 401, 8, torch.float32)
    u, v = (u * 1e-12).detach().requires_grad_(), (v * 1e-12).detach().requires_grad_()
    block = cosine_block(u, v, kind="dot", row_l2=True)
    truth = reference.cosine_block(*wide(u, v), kind="dot", row_l2=True)
    torch.testing.assert_close(block.double(), truth, rtol=1e-5, atol=1e-6)


def test_cosine_block_unsorted_seen_rows():
    u, v = factors(2, 600, 5)
    seen = SeenRows(torch.tensor([0, 3, 5]), torch.tensor([500, 7, 299, 1, 0]))
    for a, b in zip(
        value_and_grads(cosine_block, u, v, seen, "dot", True),
        value_and_grads(reference.cosine_block, u, v, seen, "dot", True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_cosine_block_one_gradient_alone():
    u, v = factors(41, 401, 6)
    seen = seen_rows(41, 401, 0.1)
    _, u_grad, v_grad = value_and_grads(cosine_block, u, v, seen, "dot", True)
    weight = torch.linspace(-1, 1, 41 * 401, dtype=torch.float64).view(41, 401)
    for chosen, other, expected in ((u, v, u_grad), (v, u, v_grad)):
        pair = (u, v.detach()) if chosen is u else (u.detach(), v)
        (grad,) = torch.autograd.grad(cosine_block(*pair, seen, "dot", True), chosen, weight)
        assert torch.equal(grad, expected)
        assert other.grad is None


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("strides", ["contiguous", "transposed", "expanded"])
def test_cosine_block_gradcheck(strides, kind, row_l2):
    u, v = factors(5, 7, 3)
    seen = seen_rows(5, 7, 0.3)
    if strides == "transposed":
        u, v = (x.detach().T.contiguous().T.requires_grad_() for x in (u, v))
    elif strides == "expanded":
        u = u.detach()[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: cosine_block(u.expand(5, 3), v, seen, kind, row_l2), (u, v))


def test_cosine_block_gradient_of_an_expanded_sum():
    u, v = factors(5, 30, 3)
    seen = seen_rows(5, 30, 0.3)
    for a, b in zip(
        torch.autograd.grad(cosine_block(u, v, seen).sum(), (u, v)),
        torch.autograd.grad(reference.cosine_block(u, v, seen).sum(), (u, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_cosine_block_opcheck(dtype, row_l2):
    u, v = factors(5, 30, 3, dtype)
    grad = torch.ones(5, 30, dtype=dtype)
    for crow, col in ((None, None), seen_rows(5, 30, 0.3)):
        torch.library.opcheck(torch.ops.mmssl_fast.cosine_block, (u, v, crow, col, row_l2))
        saved = torch.ops.mmssl_fast.cosine_block(u.detach(), v.detach(), crow, col, row_l2) if row_l2 else (None, None)
        for needs in ((True, True), (True, False), (False, True)):
            arguments = (grad, u.detach(), v.detach(), crow, col, *saved, *needs)
            torch.library.opcheck(torch.ops.mmssl_fast.cosine_block_bwd, arguments)


def test_cosine_block_refuses_a_second_derivative():
    u, v = factors(5, 30, 3)
    grads = torch.autograd.grad(cosine_block(u, v, kind="dot").square().sum(), (u, v), create_graph=True)
    with pytest.raises(NotImplementedError, match="cosine_block has no second derivative"):
        torch.autograd.grad(grads[0].square().sum(), u)


def test_cosine_block_compiles_fullgraph():
    u, v = factors(41, 401, 8)
    seen = seen_rows(41, 401, 0.1)
    compiled = torch.compile(
        lambda u, v: cosine_block(u, v, seen, "cosine", True).sin(), fullgraph=True, backend="aot_eager"
    )
    actual = torch.autograd.grad(compiled(u, v).sum(), (u, v))
    expected = torch.autograd.grad(reference.cosine_block(u, v, seen, "cosine", True).sin().sum(), (u, v))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows, items", [(300, 5000), (20, 200)])
@pytest.mark.parametrize("row_l2", [False, True])
def test_cosine_block_same_bits_for_any_thread_count(row_l2, rows, items, threads):
    u, v = factors(rows, items, 64, torch.float32)
    seen = seen_rows(rows, items, 0.05)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(value_and_grads(cosine_block, u, v, seen, "dot", row_l2))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "angle"}, "kind must be one of"),
        ({"u": torch.zeros(2, 4)}, "u and v must have the same width, got 4 and 3"),
        ({"v": torch.zeros(5, 3, dtype=torch.float64)}, "u and v must have the same dtype, got Float and Double"),
        ({"v": torch.zeros(5)}, r"v must be \[I, d\], got \[5\]"),
        ({"seen": SeenRows(torch.tensor([0, 1]), torch.tensor([1]))}, "crow must have 3 offsets for 2 rows, got 2"),
        ({"seen": SeenRows(torch.tensor([0, 1, 2]), torch.tensor([1, 5]))}, r"col\[1\] = 5 is outside \[0, 5\)"),
        ({"u": torch.zeros(2, 3).half(), "v": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16"),
    ],
)
def test_cosine_block_refuses(change, message):
    arguments = {"u": torch.zeros(2, 3), "v": torch.zeros(5, 3)}
    with pytest.raises(ValueError, match="^cosine_block: .*" + message):
        cosine_block(**(arguments | change))
