"""unit_rows: rows divided by their length."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from .derivatives import differentiable, is_transforming

_KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def unit_rows(x: Tensor) -> Tensor:
    """Equals ``x / x.norm(dim=-1, keepdim=True)``, with value 0 and gradient 0 at a zero row.

    The normalisation inside the cosine of equations 3, 5, 10 and 11. Right for rows of any finite size: squares are
    formed where they neither overflow nor vanish (rows of 1e±20 in float32). ``F.normalize`` would divide by at least
    1e-12 instead, which shortens small rows and gives a zero row a gradient of 1e12. Differentiable any number of
    times.

    On the CPU and on CUDA one pass forward and one backward; elsewhere, in float16 and in second derivatives, composed
    of PyTorch's own ops.

    Args:
        x: [..., d] of any floating dtype (float16 and bfloat16 are computed in float32).

    Returns:
        Shape and dtype of x. A row with a NaN or an infinity holds NaN.
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
    """x / ‖x‖ and 1 / ‖x‖ [..., 1], in float32 or wider, with every derivative."""
    wide = x.to(_wide(x.dtype))
    largest = wide.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    scaled = wide / largest
    square = (scaled * scaled).sum(-1, keepdim=True)
    # 1/sqrt(inf) = 0: the value and every derivative of a zero row.
    inverse = torch.where(square == 0, torch.inf, square).rsqrt()
    return scaled * inverse, inverse / largest


def _wide(dtype):
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@torch.library.register_fake("mmssl_fast::unit_rows")
def _(x):
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=_wide(x.dtype))


@torch.library.register_fake("mmssl_fast::unit_rows_bwd")
def _(grad, x, inverse):
    return x.new_empty(x.shape)


def _save(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _unit_rows_grad(ctx, grad, _):
    x, inverse = ctx.saved_tensors
    if not torch.is_grad_enabled() and not is_transforming():
        return torch.ops.mmssl_fast.unit_rows_bwd(grad, x, inverse)
    # A derivative of this one may be wanted: the same gradient from ops that have it.
    unit, inverse = _unit_and_inverse(x)
    return _across(grad.to(unit.dtype), unit, inverse).to(x.dtype)


def _across(x: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """The derivative of x / ‖x‖, which is symmetric: of x what is perpendicular to the row, divided by its length."""
    return inverse * (x - unit * (unit * x).sum(-1, keepdim=True))


def _unit_rows_tangent(inputs, outputs, tangents):
    unit, inverse = _unit_and_inverse(inputs[0])
    return _across(tangents[0].to(unit.dtype), unit, inverse).to(inputs[0].dtype), None


def _no_derivative(ctx, grad):
    raise NotImplementedError("unit_rows_bwd: call unit_rows, which is differentiable any number of times")


unit_rows_op = differentiable("unit_rows", _unit_rows_grad, _save, jvp=_unit_rows_tangent)
torch.library.register_autograd("mmssl_fast::unit_rows_bwd", _no_derivative)
