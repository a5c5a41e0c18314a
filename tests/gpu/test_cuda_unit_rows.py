"""csrc/cuda/unit_rows on the emulator, against x / ‖x‖ in float64."""

import pytest
import torch
from test_unit_rows import plain, rows
from tolerances import assert_as_accurate, assert_close

pytestmark = pytest.mark.usefixtures("poison")

SHAPES = [(41, 64), (1, 1), (7, 401), (33, 3), (300, 16), (5, 512), (3, 1271), (2, 1032), (0, 4), (9, 8)]


def backward(op, x, weight):
    unit, inverse = op.unit_rows(x)
    return unit, op.unit_rows_bwd(weight, x, inverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_unit_rows_values_and_gradients(emulated, shape, dtype):
    x, weight = rows(shape, dtype), rows(shape, dtype, seed=1)
    leaves = x.clone().requires_grad_(), x.double().requires_grad_()
    y, truth = (plain(leaf) for leaf in leaves)
    grad, true_grad = (
        torch.autograd.grad(out, leaf, weight.to(leaf.dtype))[0] for out, leaf in zip((y, truth), leaves, strict=True)
    )
    actual, actual_grad = backward(emulated, x, weight)
    assert_as_accurate(actual, y, truth)
    # In one dimension the gradient is 0; what it is the difference of is not.
    parts = (weight.double() / x.double().norm(dim=-1, keepdim=True)).abs().amax().item() if x.numel() else 0
    assert_as_accurate(actual_grad, grad, true_grad, tiny=4 * torch.finfo(dtype).eps * parts)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_unit_rows_of_extreme_size(emulated, scale):
    x, weight = rows((41, 64), torch.float32, scale), rows((41, 64), torch.float32, seed=1)
    leaf = x.double().requires_grad_()
    truth = plain(leaf)
    y, grad = backward(emulated, x, weight)
    assert_close(y, truth)
    assert_close(grad * scale, torch.autograd.grad(truth, leaf, weight.double())[0] * scale)


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e-39), (torch.float64, 1e-200), (torch.float64, 1e200)])
@pytest.mark.parametrize("d", [2, 3, 4])
def test_unit_rows_whose_squares_leave_the_type(emulated, d, dtype, size):
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0]], dtype=dtype)[:, :d].contiguous()
    y, inverse = emulated.unit_rows(x * size)
    torch.testing.assert_close(y, x / 5, rtol=1e-5, atol=0)
    limit = torch.finfo(dtype).max
    torch.testing.assert_close(
        inverse.double(), torch.tensor([min(0.2 / size, limit)], dtype=torch.float64), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("d", [5, 8])
def test_unit_rows_zero_row_has_value_and_gradient_zero(emulated, d):
    x = rows((40, d), torch.float32)
    x[[2, 39]] = 0
    weight = torch.ones_like(x)
    weight[2] = torch.nan
    y, grad = backward(emulated, x, weight)
    kept = torch.ones(40, dtype=torch.bool)
    kept[[2, 39]] = False
    for t in (y, grad):
        assert not t[~kept].any() and (t[kept] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [3, 8])
def test_unit_rows_with_nan_and_infinity_are_the_cpus(emulated, d, dtype):
    x = rows((6, d), dtype)
    x[1, 0], x[3, 2], x[4, 1] = torch.nan, torch.inf, -torch.inf
    for actual, expected in zip(emulated.unit_rows(x), torch.ops.mmssl_fast.unit_rows(x), strict=True):
        torch.testing.assert_close(actual, expected, equal_nan=True)
    assert emulated.unit_rows(x)[0].isnan().any(1).tolist() == [False, True, False, True, True, False]


@pytest.mark.parametrize("layout", ["transposed", "rows apart", "unaligned"])
def test_unit_rows_strides(emulated, layout):
    x = {
        "transposed": rows((8, 12), torch.float32).T,
        "rows apart": rows((12, 20), torch.float32)[:, :8],
        "unaligned": rows((97,), torch.float32)[1:].view(12, 8),
    }[layout]
    weight = rows((12, 8), torch.float32, seed=1)
    for actual, expected in zip(backward(emulated, x, weight), backward(torch.ops.mmssl_fast, x, weight), strict=True):
        assert_close(actual, expected)
