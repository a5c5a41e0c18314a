"""The Triton kernels of cosine_block: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from csr_blocks import normal, padded_seen
from tolerances import assert_as_accurate

from mmssl_fast import reference

pytest.importorskip("triton", reason="triton is not installed")
from mmssl_fast.kernels import shapes
from mmssl_fast.kernels.cosine_block import cosine_block, cosine_block_bwd

pytestmark = pytest.mark.usefixtures("poison")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# rows, items, d, share of items seen: several tiles of both, d beyond a block, one row, one item, none, nothing seen
SHAPES = [
    (70, 131, 8, 0.02),
    (3, 41, 150, 0.5),
    (1, 150, 41, 0.1),
    (7, 1, 3, 0.5),
    (5, 70, 5, 0.0),
    (0, 5, 3, 0.0),
    (2, 0, 3, 0.0),
    (2, 5, 0, 0.4),
]


def operands(rows, items, d, share, dtype=torch.float32):
    u, v, grad = normal(rows, d, seed=1), normal(items, d, seed=2), normal(rows, items, seed=3)
    seen = padded_seen(rows, items, share, torch.int32 if rows % 2 else torch.int64) if share else None
    return *(x.to(DEVICE, dtype) for x in (u, v, grad)), seen and type(seen)(*(x.to(DEVICE) for x in seen))


def by_reference(u, v, grad, seen, row_l2):
    u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
    seen = seen and type(seen)(seen.crow, seen.col[: int(seen.crow[-1])])
    block = reference.cosine_block(u, v, seen, "dot", row_l2)
    return [block.detach(), *torch.autograd.grad(block, (u, v), grad)]


def by_kernels(u, v, grad, seen, row_l2):
    seen = seen or (None, None)
    block, inverse = cosine_block(u, v, *seen, row_l2)
    assert inverse.shape == (u.shape[0] if row_l2 else 0,)
    given = (block, inverse) if row_l2 else (None, None)
    return [block, *cosine_block_bwd(grad, u, v, *seen, *given, True, True)]


def check(shape, row_l2, dtype):
    u, v, grad, seen = operands(*shape, dtype)
    actual, plain = by_kernels(u, v, grad, seen, row_l2), by_reference(u, v, grad, seen, row_l2)
    truth = by_reference(u.double(), v.double(), grad.double(), seen, row_l2)
    for parts in zip(actual, plain, truth, strict=True):
        # Gradients of rows of length 1 cancel: then the size of their parts is what rounding goes by.
        scale = max([1.0, *(x.abs().max().item() for x in truth if x.numel())])
        assert_as_accurate(*parts, tiny=16 * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, row_l2):
    check(shape, row_l2, torch.float32)


def test_float64():
    check((33, 40, 41, 0.2), True, torch.float64)


def test_sums_in_one_part_or_many(monkeypatch):
    inputs = operands(70, 70, 8, 0.02)
    many = by_kernels(*inputs, True)
    monkeypatch.setattr(shapes, "parts_of", lambda tiles, others: 1)
    for a, b in zip(many, by_kernels(*inputs, True), strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_zeros_and_of_seen_items_stay_zero():
    u, v, grad, seen = operands(6, 50, 4, 0.2)
    u[0], v[7] = 0, 0
    block, u_grad, v_grad = by_kernels(u, v, grad, seen, True)
    assert (block[[0, 2]] == 0).all() and (block[:, 7] == 0).all()
    assert (u_grad[[0, 2]] == 0).all() and v_grad.isfinite().all()


def test_length_of_tiny_rows():
    """Products near 1e-24: their squares are no float32."""
    u, v, _, _ = operands(5, 90, 8, 0.0)
    block, _ = cosine_block(u * 1e-12, v * 1e-12, None, None, True)
    truth = reference.cosine_block(u.double(), v.double(), None, "dot", True)
    torch.testing.assert_close(block.double(), truth, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_a_number_where_an_item_is_seen_goes_nowhere():
    u, v, grad, seen = operands(6, 50, 4, 0.2)
    expected = by_kernels(u, v, grad, seen, False)
    grad[reference.seen_mask(seen.crow, seen.col[: int(seen.crow[-1])], 50)] = torch.nan
    for a, b in zip(by_kernels(u, v, grad, seen, False), expected, strict=True):
        assert torch.equal(a, b)


def test_one_gradient_alone_and_strides():
    u, v, grad, seen = operands(5, 30, 4, 0.2)
    _, u_grad, v_grad = by_kernels(u, v, grad, seen, False)
    strided = grad.T.contiguous().T, u.T.contiguous().T, v.T.contiguous().T
    for need_u, need_v in ((True, False), (False, True)):
        got = cosine_block_bwd(*strided, *seen, None, None, need_u, need_v)
        for x, wanted, needed in zip(got, (u_grad, v_grad), (need_u, need_v), strict=True):
            assert torch.equal(x, wanted) if needed else x.numel() == 0


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no bfloat16 arithmetic")
def test_bfloat16():
    u, v, grad, seen = operands(70, 131, 64, 0.1, torch.bfloat16)
    truth = by_reference(u.double(), v.double(), grad.double(), seen, True)
    for x, exact in zip(by_kernels(u, v, grad, seen, True), truth, strict=True):
        assert x.dtype == torch.bfloat16
        torch.testing.assert_close(x.double(), exact, rtol=2e-2, atol=2e-2 * exact.abs().max().item())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"u": torch.zeros(2, 4)}, "u and v must have the same width, got 4 and 3"),
        ({"grad": torch.zeros(2, 4)}, r"grad must be \[2, 5\] of float32, got \[2, 4\] of float32"),
        ({"block": torch.zeros(2, 5)}, "pass both or neither of block and inverse"),
        ({"block": torch.zeros(2, 5).double(), "inverse": torch.zeros(2)}, "got .* of float64"),
        ({"block": torch.zeros(2, 5), "inverse": torch.zeros(3)}, r"inverse must be \[2\] of float32"),
        ({"col": torch.tensor([1])}, "pass both or neither of crow and col, got only col"),
    ],
)
def test_refuses(change, message):
    names = ("grad", "u", "v", "crow", "col", "block", "inverse")
    arguments = dict.fromkeys(names) | {"grad": torch.zeros(2, 5), "u": torch.zeros(2, 3), "v": torch.zeros(5, 3)}
    with pytest.raises(ValueError, match="^cosine_block_bwd: .*" + message):
        cosine_block_bwd(*(arguments | change).values(), True, True)
