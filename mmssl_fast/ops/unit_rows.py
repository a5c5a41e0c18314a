"""unit_rows: rows divided by their length."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast

_ops = torch.ops.mmssl_fast
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
    unit, _ = _ops.unit_rows(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))
    return unit if x.dim() == 2 else unit.reshape(x.shape)


def _composed(x: Tensor) -> Tensor:
    wide = x.to(_wide(x.dtype))
    largest = wide.detach().abs().amax(-1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1.0)
    square = (scaled * scaled).sum(-1, keepdim=True)
    # 1/sqrt(inf) = 0: the value and every derivative of a zero row.
    return (scaled * torch.where(square == 0, torch.inf, square).rsqrt()).to(x.dtype)


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
    if not torch.is_grad_enabled():
        return _ops.unit_rows_bwd(grad, x, inverse)
    # A derivative of this one is wanted: the same gradient from ops that have it.
    return torch.autograd.grad(_composed(x), x, grad, create_graph=True)[0]


def _no_derivative(ctx, grad):
    raise NotImplementedError("unit_rows_bwd: call unit_rows, which is differentiable any number of times")


torch.library.register_autograd("mmssl_fast::unit_rows", _unit_rows_grad, setup_context=_save)
torch.library.register_autograd("mmssl_fast::unit_rows_bwd", _no_derivative)
