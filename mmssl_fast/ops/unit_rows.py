"""unit_rows: every row divided by its length."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from .derivatives import differentiable, is_transforming

_KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def unit_rows(x: Tensor) -> Tensor:
    """Equals ``x / x.norm(dim=-1, keepdim=True)``, with value 0 and gradient 0 for a zero row.

    The normalisation in the cosines of equations 3, 5, 10 and 11. Rows of any finite length are correct, because a row
    is scaled by its largest entry before it is squared: float32 rows of length 1e±20 neither overflow nor vanish.
    ``F.normalize`` divides by at least 1e-12 instead, which shortens small rows and gives a zero row a gradient of
    1e12. Differentiable any number of times.

    On the CPU and on CUDA, the forward and the backward pass are one kernel each. On other devices, for float16 and for
    second derivatives, the op is composed of PyTorch operations.

    Args:
        x: [..., d] of any floating dtype (float16 and bfloat16 are computed in float32).

    Returns:
        Shape and dtype of x. A row that contains a NaN or an infinity becomes NaN.

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if x.shape[-1] == 0:
        return x.clone()
    if x.device.type not in ("cpu", "cuda") or x.dtype not in _KERNEL_DTYPES:
        return _composed(x)
    unit, _ = unit_rows_op(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))
    return unit if x.dim() == 2 else unit.reshape(x.shape)


def _composed(x: Tensor) -> Tensor:
    unit, _ = _unit_and_inverse(x)
    return unit.to(x.dtype)


def _unit_and_inverse(x: Tensor) -> tuple[Tensor, Tensor]:
    """x / ‖x‖ and 1 / ‖x‖ [..., 1] in float32 or float64, differentiable any number of times."""
    wide = x.to(_wide(x.dtype))
    largest = wide.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    scaled = wide / largest
    square = (scaled * scaled).sum(-1, keepdim=True)
    # 1/sqrt(inf) = 0, and so are its derivatives. This makes a zero row and all its derivatives zero.
    inverse = torch.where(square == 0, torch.inf, square).rsqrt()
    return scaled * inverse, inverse / largest


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@torch.library.register_fake("mmssl_fast::unit_rows")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=_wide(x.dtype))


@torch.library.register_fake("mmssl_fast::unit_rows_bwd")
def _(grad: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _unit_rows_grad(ctx: Any, grad: Tensor, _: Tensor | None) -> Tensor:
    x, inverse = ctx.saved_tensors
    if not torch.is_grad_enabled() and not is_transforming():
        return torch.ops.mmssl_fast.unit_rows_bwd(grad, x, inverse)
    # A second derivative may follow: compute the same gradient with operations that are differentiable.
    unit, inverse = _unit_and_inverse(x)
    return _apply_jacobian(grad.to(unit.dtype), unit, inverse).to(x.dtype)


def _apply_jacobian(x: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """The Jacobian of the normalisation, which is symmetric, times x: the component of x perpendicular to the row,
    divided by the length of the row."""
    return inverse * (x - unit * (unit * x).sum(-1, keepdim=True))


def _unit_rows_tangent(
    inputs: tuple[Any, ...], outputs: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Tensor, None]:
    unit, inverse = _unit_and_inverse(inputs[0])
    return _apply_jacobian(tangents[0].to(unit.dtype), unit, inverse).to(inputs[0].dtype), None


def _no_derivative(ctx: Any, grad: Tensor) -> NoReturn:
    raise NotImplementedError("unit_rows_bwd has no derivative; call unit_rows, which has all derivatives")


unit_rows_op = differentiable("unit_rows", _unit_rows_grad, _save, jvp=_unit_rows_tangent)
torch.library.register_autograd("mmssl_fast::unit_rows_bwd", _no_derivative)
