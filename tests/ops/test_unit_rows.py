"""unit_rows against x / ‖x‖ in float64."""

import pytest
import torch
from tolerances import assert_as_accurate, assert_close

from mmssl_fast import reference
from mmssl_fast.ops.unit_rows import _composed, unit_rows

pytestmark = pytest.mark.usefixtures("poison")


def rows(shape, dtype=torch.float64, scale=1.0, seed=0):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (scale * x).to(dtype)


def plain(x):
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(41, 64), (1, 1), (7, 401), (2, 3, 5), (0, 4), (6,)])
def test_unit_rows_values_and_gradients(shape, dtype):
    x = rows(shape, dtype).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    weight = rows(shape, dtype, seed=1)
    actual, expected, truth = unit_rows(x), plain(x), plain(x64)
    assert_as_accurate(actual, expected, truth)
    grads = [
        torch.autograd.grad(y, leaf, w)[0]
        for y, leaf, w in ((actual, x, weight), (expected, x, weight), (truth, x64, weight.double()))
    ]
    # In one dimension the gradient is 0; what it is the difference of is not.
    parts = (weight.double() / x64.norm(dim=-1, keepdim=True)).detach().abs().amax().item() if x.numel() else 0
    assert_as_accurate(*grads, tiny=4 * torch.finfo(dtype).eps * parts)


@pytest.mark.parametrize("function", [unit_rows, _composed])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_unit_rows_of_extreme_size(scale, function):
    x = rows((41, 64), torch.float32, scale).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    assert_close(function(x), plain(x64))
    weight = rows((41, 64), torch.float32, seed=1)
    (grad,) = torch.autograd.grad(function(x), x, weight)
    (truth,) = torch.autograd.grad(plain(x64), x64, weight.double())
    assert_close(grad * scale, truth * scale)


@pytest.mark.parametrize("function", [unit_rows, _composed, reference.unit_rows])
def test_unit_rows_zero_row_has_value_and_gradient_zero(function):
    x = rows((4, 5))
    x[2] = 0
    x.requires_grad_()
    y = function(x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    for t in (y, grad, second):
        assert t.isfinite().all()
        assert (t[2] == 0).all()
        assert (t[[0, 1, 3]] != 0).all()


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e-39), (torch.float64, 1e-200), (torch.float64, 1e200)])
def test_unit_rows_whose_squares_leave_the_type(dtype, size):
    y = unit_rows(torch.tensor([[3.0, 4.0]], dtype=dtype) * size)
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.8]], dtype=dtype), rtol=1e-5, atol=0)


def test_unit_rows_without_columns():
    assert unit_rows(torch.empty(3, 0)).shape == (3, 0)


def test_unit_rows_keeps_nan_and_infinity_visible():
    assert unit_rows(torch.tensor([[1.0, torch.nan], [torch.inf, 1.0]])).isnan().any(1).all()


def test_unit_rows_gradcheck_twice():
    x = rows((4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(unit_rows, x)
    assert torch.autograd.gradgradcheck(lambda row: unit_rows(row.expand(4, 3)), x.detach()[:1].requires_grad_())
    x.detach()[2] = 0
    assert torch.autograd.gradgradcheck(
        lambda part: unit_rows(torch.cat((part, x.detach()[2:]))), x.detach()[:2].requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_unit_rows_opcheck(dtype):
    x = rows((7, 5), dtype)
    x[3] = 0
    torch.library.opcheck(torch.ops.mmssl_fast.unit_rows, (x.requires_grad_(),))
    x = x.detach()
    _, inverse = torch.ops.mmssl_fast.unit_rows(x)
    torch.library.opcheck(torch.ops.mmssl_fast.unit_rows_bwd, (rows((7, 5), dtype, seed=1), x, inverse))


def test_unit_rows_float16():
    x = rows((7, 5), torch.float16)
    torch.testing.assert_close(unit_rows(x).double(), plain(x.double()), rtol=1e-3, atol=1e-3)


def test_unit_rows_compiles_fullgraph():
    x = rows((41, 7)).requires_grad_()
    compiled = torch.compile(unit_rows, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x))
    weight = rows((41, 7), seed=1)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x, weight), torch.autograd.grad(plain(x), x, weight))
