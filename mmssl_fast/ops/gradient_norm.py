"""gradient_norm: the lengths of g W, the gradient penalty's ‖∇_x D‖, without forming [B, I] (Eq. 7).

With K = W Wᵀ: ‖g W‖² = g K gᵀ per row. K is symmetric: its lower blocks are computed, the rest mirrored. With n the
length, q = g K and a = ∂L/∂n / n, the gradients are dg = a∘q and dW = (gᵀ(a∘g)) W: one product over W, because (dK +
dKᵀ) collects both sides of K. When H > 2B, g W is streamed in item tiles instead. So are the rows that float32 cannot
take through K: where ‖g W‖² is far below Σ_h g_h² ‖W_h‖², the digits of K cancel (on CUDA the worst few, see
static_shapes).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..static_shapes import is_static, rows_to_rescue
from .item_tiles import item_tiles
from .pending_gradient import PendingGradient, pending_of

MIRROR_BLOCKS = 6
# K's rounding errors are eps of its entries. A row is streamed where they would show at 1e-5 (float64: 1e-12): in its
# length, where ‖gW‖² is under this share of Σ_h g_h²‖W_h‖²; in its gradient, where ‖gK‖ is under that share of ‖g‖‖K‖.
CANCELLED_LENGTH = {torch.float32: 1e-2, torch.float64: 1e-4}
CANCELLED_GRADIENT = {torch.float32: 6e-4, torch.float64: 1e-5}


def gradient_norm(g: Tensor, weight: Tensor) -> Tensor:
    """Equals ``(g @ weight).norm(dim=1)``, without forming g @ weight (Eq. 7).

    With g = ∂ΣD/∂z, z the first Linear's output and weight its W, this is ‖∇_x D(x)‖ for every row x. Differentiable
    once, in g and weight.

    Args:
        g: [B, H] float32, float64 or bfloat16 (computed in float32).
        weight: [H, I], dtype of g, of either layout; its gradient has the same layout.

    Returns:
        [B], dtype of g; where the length is 0 the gradient is 0.

    Raises:
        ValueError: for shapes or dtypes that do not match.
    """
    if g.ndim != 2 or weight.ndim != 2 or g.shape[1] != weight.shape[0]:
        raise ValueError(
            f"gradient_norm: g [B, H] and weight [H, I] are needed, got {tuple(g.shape)} and {tuple(weight.shape)}"
        )
    if g.dtype != weight.dtype or not g.is_floating_point():
        raise ValueError(f"gradient_norm: g and weight must have one floating dtype, got {g.dtype} and {weight.dtype}")
    work = torch.float32 if g.dtype in (torch.bfloat16, torch.float16) else g.dtype
    with torch.autocast(g.device.type, enabled=False):
        return torch.ops.mmssl_fast.gradient_norm(g.to(work), weight.to(work))[0].to(g.dtype)


def _symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b [H, H], known to be symmetric: the blocks below the diagonal by product, those above by mirroring."""
    h = a.shape[0]
    step = -(-h // MIRROR_BLOCKS) if h >= 256 else max(h, 1)
    out = a.new_empty(h, h)
    for begin in range(0, h, step):
        end = min(begin + step, h)
        torch.mm(a[begin:end], b[:, :end], out=out[begin:end, :end])
        out[:begin, begin:end] = out[begin:end, :begin].mT
    return out


def _streamed(g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(‖g W‖² float64 [b], g W Wᵀ [b, H]) by item tiles."""
    square = g.new_zeros(g.shape[0], dtype=torch.float64)
    q = torch.zeros_like(g, memory_format=torch.contiguous_format)
    for begin, end in item_tiles(g.shape[0], weight.shape[1]):
        r = g @ weight[:, begin:end]
        square += torch.linalg.vector_norm(r, dim=1).double().square_()
        q.addmm_(r, weight[:, begin:end].mT)
    return square, q


@torch.library.custom_op("mmssl_fast::gradient_norm", mutates_args=())
def _gradient_norm_op(g: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, h = g.shape
    if h > 2 * rows:
        square, q = _streamed(g, weight)
        return square.sqrt_().to(g.dtype), q, torch.ones(rows, dtype=torch.bool, device=g.device)
    k = _symmetric_product(weight, weight.mT)
    q = g @ k
    square = (q * g).sum(1, dtype=torch.float64)
    badness = torch.maximum(
        CANCELLED_LENGTH[g.dtype] * (g.square() @ k.diagonal()) / square.clamp_min(0),
        CANCELLED_GRADIENT[g.dtype] * g.norm(dim=1) * k.norm() / q.norm(dim=1),
    )
    ids = rows_to_rescue(badness.nan_to_num(0, posinf=torch.inf))  # 0 / 0: g is zero, and so is the length
    streamed = torch.zeros(rows, dtype=torch.bool, device=g.device)
    if ids.numel():
        square[ids], q[ids] = _streamed(g[ids], weight)
        streamed[ids] = True
    return square.clamp_min_(0).sqrt_().to(g.dtype), q, streamed


@_gradient_norm_op.register_fake
def _(g, weight):
    return g.new_empty(g.shape[0]), g.new_empty(g.shape), g.new_empty(g.shape[0], dtype=torch.bool)


@torch.library.custom_op("mmssl_fast::gradient_norm_bwd", mutates_args=())
def _gradient_norm_bwd_op(grad: Tensor, g: Tensor, weight: Tensor, norm: Tensor, streamed: Tensor) -> Tensor:
    """∂L/∂weight, laid out as weight."""
    a = _per_length(grad, norm)[:, None]
    d_weight = torch.empty_like(weight)
    ids = _streamed_rows(streamed, g)
    if ids.numel() == g.shape[0]:
        d_weight.zero_()
    else:
        ag = torch.where(streamed[:, None], 0.0, a) * g
        torch.mm(weight.mT, _symmetric_product(ag.mT, g), out=d_weight.mT)
    if ids.numel():
        rows = g[ids]
        ag = a[ids] * rows
        for begin, end in item_tiles(rows.shape[0], weight.shape[1]):
            d_weight[:, begin:end].mT.addmm_((rows @ weight[:, begin:end]).mT, ag)
    return d_weight


@_gradient_norm_bwd_op.register_fake
def _(grad, g, weight, norm, streamed):
    return torch.empty_like(weight)


def _put_off(pending: PendingGradient, grad: Tensor, g: Tensor, weight: Tensor, norm: Tensor, streamed: Tensor) -> None:
    """As `_gradient_norm_bwd_op`, in pieces."""
    a = _per_length(grad, norm)[:, None]
    ids = _streamed_rows(streamed, g)
    if ids.numel() < g.shape[0]:
        pending.add_product(_symmetric_product((torch.where(streamed[:, None], 0.0, a) * g).mT, g))
    if ids.numel():
        rows, weight = g[ids], weight.detach()
        pending.add_rows(lambda begin, end: rows @ weight[:, begin:end], a[ids] * rows)


def _streamed_rows(streamed: Tensor, g: Tensor) -> Tensor:
    """The rows where `streamed` is set, whose number is known from g's shape where shapes are static."""
    rows, h = g.shape
    if not is_static(g.device):
        return streamed.nonzero().flatten()
    return torch.arange(rows, device=g.device) if h > 2 * rows else rows_to_rescue(streamed.to(torch.float32))


def _per_length(grad: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm <= 0, 0.0, grad / torch.where(norm <= 0, 1.0, norm))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _grad(ctx, grad, _q, _streamed):
    if grad is None:
        return None, None
    g, weight, norm, q, streamed = ctx.saved_tensors
    d_g = _per_length(grad, norm)[:, None] * q if ctx.needs_input_grad[0] else None
    d_weight = None
    pending = pending_of(weight) if ctx.needs_input_grad[1] and not torch.compiler.is_compiling() else None
    if pending is not None:
        _put_off(pending, grad, g, weight, norm, streamed)
    elif ctx.needs_input_grad[1]:
        d_weight = torch.ops.mmssl_fast.gradient_norm_bwd(grad, g, weight, norm, streamed)
    return d_g, d_weight


_gradient_norm_op.register_autograd(once_differentiable(_grad), setup_context=_save)
