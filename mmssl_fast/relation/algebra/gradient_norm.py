"""gradient_norm: the lengths of g W, the gradient penalty's ‖∇_x D‖, without forming [B, I] (Eq. 7).

With K = W Wᵀ: ‖g W‖² = g K gᵀ per row. K is symmetric: its lower blocks are computed, the rest mirrored. With n the
length, q = g K and a = ∂L/∂n / n, the gradients are dg = a∘q and dW = (gᵀ(a∘g)) W: one product over W, because (dK +
dKᵀ) collects both sides of K. When H > 2B, g W itself is cheaper: three products over W where it is kept for backward,
up to KEPT_ELEMENTS, four where it is streamed in item tiles and made anew. Streamed are also the rows that float32
cannot take through K: where ‖g W‖² is far below Σ_h g_h² ‖W_h‖², the digits of K cancel (on CUDA the worst few, see
static_shapes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments import check_tensors
from ...ops.derivatives import differentiable, is_transforming, undifferentiable
from ...precision import addmm_, gemm_dtype, mm, mm_out, rounded
from ...static_shapes import is_static, rows_to_rescue
from ...tiles import item_tiles
from .pending_gradient import PendingGradient, pending_of

MIRROR_BLOCKS = 6
KEPT_ELEMENTS = 1 << 22  # of g W, less than half of W: 16 MiB of float32
# K's rounding errors are eps of its entries. A row is streamed where they would show at 1e-5 (float64: 1e-12, the
# half-width types: 2e-2): in its length, where ‖gW‖² is under this share of Σ_h g_h²‖W_h‖²; in its gradient, where ‖gK‖
# is under that share of ‖g‖‖K‖.
CANCELLED_LENGTH = {torch.float32: 1e-2, torch.float64: 1e-4, torch.bfloat16: 1e-1, torch.float16: 3e-2}
CANCELLED_GRADIENT = {torch.float32: 6e-4, torch.float64: 1e-5, torch.bfloat16: 3e-3, torch.float16: 1e-3}

NO_SECOND_DERIVATIVE = "gradient_norm: has no second derivative; use mmssl_fast.reference.gradient_norm"


def gradient_norm(g: Tensor, weight: Tensor) -> Tensor:
    """Equals ``(g @ weight).norm(dim=1)``, without forming g @ weight (Eq. 7).

    With g = ∂ΣD/∂z, z the first Linear's output and weight its W, this is ‖∇_x D(x)‖ for every row x. Differentiable
    once, in g and weight. Under autocast the operands of every product, forward and backward, are rounded to its dtype.

    Args:
        g: [B, H] float32, float64 or bfloat16 (computed in float32).
        weight: [H, I], dtype of g, of either layout; its gradient has the same layout.

    Returns:
        [B], dtype of g; where the length is 0 the gradient is 0.

    Raises:
        ValueError: for shapes or dtypes that do not match.
    """
    check_tensors("gradient_norm", g=g, weight=weight)
    if g.ndim != 2 or weight.ndim != 2 or g.shape[1] != weight.shape[0]:
        raise ValueError(
            f"gradient_norm: g [B, H] and weight [H, I] are needed, got {tuple(g.shape)} and {tuple(weight.shape)}"
        )
    if g.dtype != weight.dtype or not g.is_floating_point():
        raise ValueError(f"gradient_norm: g and weight must have one floating dtype, got {g.dtype} and {weight.dtype}")
    work = torch.float32 if g.dtype in (torch.bfloat16, torch.float16) else g.dtype
    gemm = str(gemm_dtype(g.device, work)).removeprefix("torch.")
    with torch.autocast(g.device.type, enabled=False):
        return gradient_norm_op(g.to(work), weight.to(work), gemm)[0].to(g.dtype)


def _symmetric_product(a: Tensor, b: Tensor, gemm: torch.dtype, dtype: torch.dtype) -> Tensor:
    """a @ b [H, H] in dtype, known to be symmetric: the blocks below the diagonal by product, those above by
    mirroring."""
    h = a.shape[0]
    step = -(-h // MIRROR_BLOCKS) if h >= 256 else max(h, 1)
    out = a.new_empty(h, h, dtype=dtype)
    a, b = a.to(gemm), b.to(gemm)
    for begin in range(0, h, step):
        end = min(begin + step, h)
        mm_out(a[begin:end], b[:, :end], out[begin:end, :end], gemm)
        out[:begin, begin:end] = out[begin:end, :begin].mT
    return out


def _streamed(g: Tensor, weight: Tensor, gemm: torch.dtype) -> tuple[Tensor, Tensor]:
    """(‖g W‖² float64 [b], g W Wᵀ [b, H]) by item tiles."""
    square = g.new_zeros(g.shape[0], dtype=torch.float64)
    q = torch.zeros_like(g, memory_format=torch.contiguous_format)
    for begin, end in item_tiles(g.shape[0], weight.shape[1]):
        r = mm(g, weight[:, begin:end], gemm)
        square += torch.linalg.vector_norm(r, dim=1).double().square_()
        addmm_(q, r, weight[:, begin:end].mT, gemm)
    return square, q


def _keeps(g: Tensor, weight: Tensor) -> bool:
    """Whether g W is kept for backward."""
    (rows, h), items = g.shape, weight.shape[1]
    return h > 2 * rows and rows * items <= KEPT_ELEMENTS


@torch.library.custom_op("mmssl_fast::gradient_norm", mutates_args=())
def _gradient_norm_op(g: Tensor, weight: Tensor, gemm: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The lengths, g K, which rows did not go through K, and g W where it is kept (else of no columns)."""
    (rows, h), narrow = g.shape, getattr(torch, gemm)
    every, none = torch.ones(rows, dtype=torch.bool, device=g.device), g.new_empty(rows, 0)
    if _keeps(g, weight):
        w = rounded(weight, narrow)
        r = mm(g, w, narrow)
        return torch.linalg.vector_norm(r, dim=1), mm(r, w.mT, narrow), every, r
    if h > 2 * rows:
        square, q = _streamed(g, weight, narrow)
        return square.sqrt_().to(g.dtype), q, every, none
    w = rounded(weight, narrow)
    k = _symmetric_product(w, w.mT, narrow, g.dtype)
    q = mm(g, k, narrow)
    square = (q * g).sum(1, dtype=torch.float64)
    badness = torch.maximum(
        CANCELLED_LENGTH[narrow] * (g.square() @ k.diagonal()) / square.clamp_min(0),
        CANCELLED_GRADIENT[narrow] * g.norm(dim=1) * k.norm() / q.norm(dim=1),
    )
    ids = rows_to_rescue(badness.nan_to_num(0, posinf=torch.inf))  # 0 / 0: g is zero, and so is the length
    streamed = torch.zeros_like(every)
    if ids.numel():
        square[ids], q[ids] = _streamed(g[ids], weight, narrow)
        streamed[ids] = True
    return square.clamp_min_(0).sqrt_().to(g.dtype), q, streamed, none


@_gradient_norm_op.register_fake
def _(g, weight, gemm):
    rows = g.shape[0]
    kept = weight.shape[1] if _keeps(g, weight) else 0
    return g.new_empty(rows), g.new_empty(g.shape), g.new_empty(rows, dtype=torch.bool), g.new_empty(rows, kept)


@torch.library.custom_op("mmssl_fast::gradient_norm_bwd", mutates_args=())
def _gradient_norm_bwd_op(
    grad: Tensor, g: Tensor, weight: Tensor, norm: Tensor, streamed: Tensor, kept: Tensor, gemm: str
) -> Tensor:
    """∂L/∂weight, laid out as weight."""
    a, narrow = _per_length(grad, norm)[:, None], getattr(torch, gemm)
    d_weight = torch.empty_like(weight)
    if kept.shape[1]:
        mm_out(kept.mT, a * g, d_weight.mT, narrow)
        return d_weight
    ids = _streamed_rows(streamed, g)
    if ids.numel() == g.shape[0]:
        d_weight.zero_()
    else:
        ag = torch.where(streamed[:, None], 0.0, a) * g
        mm_out(rounded(weight, narrow).mT, _symmetric_product(ag.mT, g, narrow, g.dtype), d_weight.mT, narrow)
    if ids.numel():
        rows = g[ids]
        ag = a[ids] * rows
        for begin, end in item_tiles(rows.shape[0], weight.shape[1]):
            addmm_(d_weight[:, begin:end].mT, mm(rows, weight[:, begin:end], narrow).mT, ag, narrow)
    return d_weight


@_gradient_norm_bwd_op.register_fake
def _(grad, g, weight, norm, streamed, kept, gemm):
    return torch.empty_like(weight)


def _add_to_pending(pending: PendingGradient, grad, g, weight, norm, streamed, kept, gemm: str) -> None:
    """Adds to `pending` the pieces of what `_gradient_norm_bwd_op` returns as a matrix."""
    a, narrow = _per_length(grad, norm)[:, None], getattr(torch, gemm)
    if kept.shape[1]:
        pending.add_rows(kept, a * g, narrow)
        return
    ids = _streamed_rows(streamed, g)
    if ids.numel() < g.shape[0]:
        s = _symmetric_product((torch.where(streamed[:, None], 0.0, a) * g).mT, g, narrow, g.dtype)
        pending.add_product(s, narrow)
    if ids.numel():
        rows, weight = g[ids], weight.detach()
        pending.add_tiles(lambda begin, end: mm(rows, weight[:, begin:end], narrow), a[ids] * rows, narrow)


def _streamed_rows(streamed: Tensor, g: Tensor) -> Tensor:
    """The rows where `streamed` is set, whose number is known from g's shape where shapes are static."""
    rows, h = g.shape
    if streamed.shape != (rows,):
        raise ValueError(f"gradient_norm_bwd: streamed must be [{rows}], got {list(streamed.shape)}")
    if not is_static(g.device):
        return streamed.nonzero().flatten()
    return torch.arange(rows, device=g.device) if h > 2 * rows else rows_to_rescue(streamed.to(torch.float32))


def _per_length(grad: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm <= 0, 0.0, grad / torch.where(norm <= 0, 1.0, norm))


def _save(ctx, inputs, output):
    g, weight, ctx.gemm = inputs
    ctx.save_for_backward(g, weight, *output)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _grad(ctx, grad, q_grad, _streamed, kept_grad):
    if is_transforming() and (q_grad is not None or kept_grad is not None):  # of a second derivative, by torch.func
        raise NotImplementedError(NO_SECOND_DERIVATIVE)
    if grad is None:
        return None, None, None
    g, weight, norm, q, streamed, kept = ctx.saved_tensors
    d_g = _per_length(grad, norm)[:, None] * q if ctx.needs_input_grad[0] else None
    d_weight = None
    pending = pending_of(weight) if ctx.needs_input_grad[1] and not torch.compiler.is_compiling() else None
    if pending is not None:
        _add_to_pending(pending, grad, g, weight, norm, streamed, kept, ctx.gemm)
    elif ctx.needs_input_grad[1]:
        d_weight = gradient_norm_bwd(grad, g, weight, norm, streamed, kept, ctx.gemm)
    return d_g, d_weight, None


gradient_norm_op = differentiable("gradient_norm", _grad, _save, once=True)
gradient_norm_bwd = undifferentiable("gradient_norm_bwd", NO_SECOND_DERIVATIVE)
