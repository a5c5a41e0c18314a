"""gradient_norm: the row norms of g W, which are ‖∇_x D‖ in the gradient penalty, without forming a large g W (Eq. 7).

With K = W Wᵀ, the squared norm of a row is ‖g W‖² = g K gᵀ. K is symmetric, so its lower blocks are computed and
mirrored. Let n be the norm, q = g K and a = ∂L/∂n / n. The gradients are dg = a∘q and dW = (gᵀ(a∘g)) W. The latter is
a single product over W, because dK + dKᵀ collects both factors of K.

If H > 2B, computing g W costs less than K. Then a g W of up to SAVED_ELEMENTS entries is formed and saved for the
backward pass, which takes three products over W in total. A larger g W is streamed: computed in tiles of items and
again in the backward pass, which takes four products.

Some rows are also streamed if H ≤ 2B: if ‖g W‖² is far below Σ_h g_h² ‖W_h‖², the digits of K cancel. On CUDA, a fixed
number of the worst rows is streamed (static_shapes.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...arguments import check_tensors
from ...ops.derivatives import differentiable, is_transforming, undifferentiable
from ...precision import addmm_, gemm_dtype, mm, mm_out, rounded, work_dtype
from ...python_op import python_op
from ...static_shapes import is_static, rows_to_form_densely
from ...tiles import item_tiles
from .pending_gradient import PendingGradient, pending_of
from .weight_products import is_narrow, project, times_weight, weight_tiles

MIRROR_BLOCKS = 6  # row blocks of a symmetric product; more blocks save more, but make the products smaller
SAVED_ELEMENTS = 1 << 22  # maximum number of entries of g W that are saved (16 MiB of float32, less than half of W)
# The entries of K have relative rounding errors of the dtype's eps. A row is streamed if these could cause a relative
# error above 1e-5 (float64: 1e-12; float16 and bfloat16: 2e-2) in the norm, which happens if ‖gW‖² is below
# CANCELLED_LENGTH · Σ_h g_h²‖W_h‖², or in the gradient, if ‖gK‖ is below CANCELLED_GRADIENT · ‖g‖‖K‖.
CANCELLED_LENGTH = {torch.float32: 1e-2, torch.float64: 1e-4, torch.bfloat16: 1e-1, torch.float16: 3e-2}
CANCELLED_GRADIENT = {torch.float32: 6e-4, torch.float64: 1e-5, torch.bfloat16: 3e-3, torch.float16: 1e-3}

NO_SECOND_DERIVATIVE = "gradient_norm has no second derivative; use mmssl_fast.reference.gradient_norm"


def gradient_norm(g: Tensor, weight: Tensor) -> Tensor:
    """Equals ``(g @ weight).norm(dim=1)``, without forming g @ weight if it is large.

    If H ≤ 2B, the norms are computed from weight @ weight.T, [H, H]. If H > 2B, g @ weight costs less than that: it is
    formed and saved if it has up to 4 million entries, and computed in tiles of items otherwise.

    The norm in the gradient penalty, equation 7 of MMSSL (WWW 2023). If z is the output of the discriminator's first
    linear layer for rows x and g = ∂ΣD/∂z, then g @ weight is the gradient ∇_x D(x). Differentiable once, in g and
    weight. Under autocast, the operands of all products, forward and backward, are rounded to autocast's dtype.

    Args:
        g: [B, H] float32, float64 or bfloat16 (computed in float32).
        weight: [H, I], dtype of g, or bfloat16 if g is float32: it is then converted in tiles of items. In either
            memory layout; its gradient has the same layout and dtype.

    Returns:
        [B], dtype of g. A norm of 0 has gradient 0.

    Raises:
        ValueError: shapes or dtypes do not match.

    Example:
        >>> g, weight = torch.randn(3, 4), torch.randn(4, 6)
        >>> torch.allclose(gradient_norm(g, weight), (g @ weight).norm(dim=1))
        True
    """
    check_tensors("gradient_norm", g=g, weight=weight)
    if g.ndim != 2 or weight.ndim != 2 or g.shape[1] != weight.shape[0]:
        raise ValueError(
            f"gradient_norm: g must be [B, H] and weight [H, I], got {tuple(g.shape)} and {tuple(weight.shape)}"
        )
    stored = g.dtype == torch.float32 and weight.dtype == torch.bfloat16
    if not (stored or g.dtype == weight.dtype) or not g.is_floating_point():
        raise ValueError(
            f"gradient_norm: g and weight must have the same floating dtype, got {g.dtype} and {weight.dtype}"
        )
    work = work_dtype(g.dtype)
    gemm = str(gemm_dtype(g.device, work)).removeprefix("torch.")
    with torch.autocast(g.device.type, enabled=False):
        return gradient_norm_op(g.to(work), weight if stored else weight.to(work), gemm)[0].to(g.dtype)


def _symmetric_product(a: Tensor, b: Tensor, gemm: torch.dtype, dtype: torch.dtype) -> Tensor:
    """a @ b [H, H] in dtype, where the product is symmetric. The blocks above the diagonal are copied from below."""
    h = a.shape[0]
    step = -(-h // MIRROR_BLOCKS) if h >= 256 else max(h, 1)
    out = a.new_empty(h, h, dtype=dtype)
    a, b = a.to(gemm), b.to(gemm)
    for begin in range(0, h, step):
        end = min(begin + step, h)
        mm_out(a[begin:end], b[:, :end], out[begin:end, :end], gemm)
        out[:begin, begin:end] = out[begin:end, :begin].mT
    return out


def _gram(weight: Tensor, gemm: torch.dtype, dtype: torch.dtype) -> Tensor:
    """weight @ weight.mT [H, H] in dtype."""
    if not is_narrow(weight, gemm):
        w = rounded(weight, gemm)
        return _symmetric_product(w, w.mT, gemm, dtype)
    k = torch.zeros(weight.shape[0], weight.shape[0], dtype=dtype, device=weight.device)
    for _, _, tile in weight_tiles(weight, gemm):
        k += _symmetric_product(tile.mT, tile, gemm, dtype)
    return k


def _streamed(g: Tensor, weight: Tensor, gemm: torch.dtype) -> tuple[Tensor, Tensor]:
    """‖g W‖² (float64 [b]) and g W Wᵀ ([b, H]), computed in tiles of items."""
    square = g.new_zeros(g.shape[0], dtype=torch.float64)
    q = torch.zeros_like(g, memory_format=torch.contiguous_format)
    for begin, end in item_tiles(g.shape[0], weight.shape[1]):
        r = mm(g, weight[:, begin:end], gemm)
        square += torch.linalg.vector_norm(r, dim=1).double().square_()
        addmm_(q, r, weight[:, begin:end].mT, gemm)
    return square, q


def _saves_product(g: Tensor, weight: Tensor) -> bool:
    """Whether g W is formed and saved for the backward pass."""
    (rows, h), items = g.shape, weight.shape[1]
    return h > 2 * rows and rows * items <= SAVED_ELEMENTS


def _fake_gradient_norm(g: Tensor, weight: Tensor, gemm: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = g.shape[0]
    saved = weight.shape[1] if _saves_product(g, weight) else 0
    return g.new_empty(rows), g.new_empty(g.shape), g.new_empty(rows, dtype=torch.bool), g.new_empty(rows, saved)


@python_op("gradient_norm", _fake_gradient_norm)
def _gradient_norm_op(g: Tensor, weight: Tensor, gemm: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The norms, q = g K, a mask of the rows that were not computed with K, and the saved g W (or [B, 0])."""
    (rows, h), narrow = g.shape, getattr(torch, gemm)
    all_rows, not_saved = torch.ones(rows, dtype=torch.bool, device=g.device), g.new_empty(rows, 0)
    if _saves_product(g, weight):
        r = times_weight(g, weight, narrow)
        return torch.linalg.vector_norm(r, dim=1), project([r.mT], weight, narrow), all_rows, r
    if h > 2 * rows:
        square, q = _streamed(g, weight, narrow)
        return square.sqrt_().to(g.dtype), q, all_rows, not_saved
    k = _gram(weight, narrow, g.dtype)
    q = mm(g, k, narrow)
    square = (q * g).sum(1, dtype=torch.float64)
    badness = torch.maximum(
        CANCELLED_LENGTH[narrow] * (g.square() @ k.diagonal()) / square.clamp_min(0),
        CANCELLED_GRADIENT[narrow] * g.norm(dim=1) * k.norm() / q.norm(dim=1),
    )
    ids = rows_to_form_densely(badness.nan_to_num(0, posinf=torch.inf))  # 0 / 0 if g is zero, which is exact
    streamed = torch.zeros_like(all_rows)
    if ids.numel():
        square[ids], q[ids] = _streamed(g[ids], weight, narrow)
        streamed[ids] = True
    return square.clamp_min_(0).sqrt_().to(g.dtype), q, streamed, not_saved


def _fake_gradient_norm_bwd(grad: Tensor, g: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight)


@python_op("gradient_norm_bwd", _fake_gradient_norm_bwd)
def _gradient_norm_bwd_op(
    grad: Tensor, g: Tensor, weight: Tensor, norm: Tensor, streamed: Tensor, saved: Tensor, gemm: str
) -> Tensor:
    """∂L/∂weight in the layout of weight."""
    a, narrow = _divide_or_zero(grad, norm)[:, None], getattr(torch, gemm)
    d_weight = torch.empty_like(weight)
    if saved.shape[1]:
        mm_out(saved.mT, a * g, d_weight.mT, narrow)
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


def _add_to_pending(
    pending: PendingGradient,
    grad: Tensor,
    g: Tensor,
    weight: Tensor,
    norm: Tensor,
    streamed: Tensor,
    saved: Tensor,
    gemm: str,
) -> None:
    """Adds the gradient that `_gradient_norm_bwd_op` returns as a matrix to `pending`, in pieces."""
    a, narrow = _divide_or_zero(grad, norm)[:, None], getattr(torch, gemm)
    if saved.shape[1]:
        pending.add_rows(saved, a * g, narrow)
        return
    ids = _streamed_rows(streamed, g)
    if ids.numel() < g.shape[0]:
        s = _symmetric_product((torch.where(streamed[:, None], 0.0, a) * g).mT, g, narrow, g.dtype)
        pending.add_product(s, narrow)
    if ids.numel():
        rows, weight = g[ids], weight.detach()
        pending.add_tiles(lambda begin, end: mm(rows, weight[:, begin:end], narrow), a[ids] * rows, narrow)


def _streamed_rows(streamed: Tensor, g: Tensor) -> Tensor:
    """The rows for which `streamed` is true. If shapes are static, their number depends on the shape of g only."""
    rows, h = g.shape
    if streamed.shape != (rows,):
        raise ValueError(f"gradient_norm_bwd: streamed must be [{rows}], got {list(streamed.shape)}")
    if not is_static(g.device):
        return streamed.nonzero().flatten()
    return torch.arange(rows, device=g.device) if h > 2 * rows else rows_to_form_densely(streamed.to(torch.float32))


def _divide_or_zero(grad: Tensor, norm: Tensor) -> Tensor:
    """grad / norm, and 0 where norm is 0."""
    return torch.where(norm <= 0, 0.0, grad / torch.where(norm <= 0, 1.0, norm))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    g, weight, ctx.gemm = inputs
    ctx.save_for_backward(g, weight, *output)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _grad(
    ctx: Any, grad: Tensor | None, q_grad: Tensor | None, _streamed: Tensor | None, saved_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    # Inside torch.func, gradients of the intermediate results only occur in second derivatives.
    if is_transforming() and (q_grad is not None or saved_grad is not None):
        raise NotImplementedError(NO_SECOND_DERIVATIVE)
    if grad is None:
        return None, None, None
    g, weight, norm, q, streamed, saved = ctx.saved_tensors
    d_g = _divide_or_zero(grad, norm)[:, None] * q if ctx.needs_input_grad[0] else None
    d_weight = None
    pending = pending_of(weight) if ctx.needs_input_grad[1] and not torch.compiler.is_compiling() else None
    if pending is not None:
        _add_to_pending(pending, grad, g, weight, norm, streamed, saved, ctx.gemm)
    elif ctx.needs_input_grad[1]:
        d_weight = gradient_norm_bwd(grad, g, weight, norm, streamed, saved, ctx.gemm)
    return d_g, d_weight, None


gradient_norm_op = differentiable("gradient_norm", _grad, _save, once=True)
gradient_norm_bwd = undifferentiable("gradient_norm_bwd", NO_SECOND_DERIVATIVE)
