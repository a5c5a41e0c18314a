"""relation_row_norm: the lengths of generated rows, without forming them.

‖row_u‖² = U_u (VᵀV) U_uᵀ − Σ_{i seen by u} s_ui², with the Gram matrix VᵀV and the products s_ui in float64. If the
seen items make up nearly the whole row, the difference has no digits left. Rows with less than CANCELLED_SHARE of their
unmasked squared length are therefore formed densely, a few at a time.

With the norm n and c = ∂L/∂n / n, the gradients are dU = c∘(U VᵀV − s V) and dV = V Uᵀ(c∘U) − (c∘s)ᵀ U. A zero row has
gradient 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops.derivatives import differentiable, undifferentiable
from ...ops.sampled_dot import sampled_dot
from ...ops.spmm import spmm
from ...python_op import python_op
from .cancelled import CANCELLED_SHARE, cancelled_blocks
from .parts import check_generated
from .weight_columns import ItemEntries

# What is converted to float64 at a time: rows on CUDA, and elsewhere entries, 512 KiB of them, which stay in the cache.
GRAM_ROWS, GRAM_ENTRIES = 1 << 16, 1 << 16


def relation_row_norm(u: Tensor, v: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Equals ``(u @ v.T).masked_fill(seen_mask, 0).norm(dim=1)``, without forming the [B, I] block.

    The row lengths of equation 3 of MMSSL (WWW 2023), by which rows are normalised. Differentiable once in u and v.

    Args:
        u: [B, d] float32, float64 or bfloat16.
        v: [I, d], dtype of u.
        seen: SeenRows(crow [B + 1], col [nnz]), whose entries have value 0 and are distinct within a row, or None.

    Returns:
        [B], dtype of u. A row that is zero, or whose items are all seen, has exactly 0, and gradient 0.

    Raises:
        ValueError: shapes or dtypes do not match.

    Example:
        >>> u, v = torch.randn(2, 8), torch.randn(5, 8)
        >>> torch.allclose(relation_row_norm(u, v), (u @ v.T).norm(dim=1))
        True
    """
    check_generated("relation_row_norm", u, v, seen)
    return row_norm_and_cancelled(u, v, seen)[0].to(u.dtype)


def row_norm_and_cancelled(u: Tensor, v: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """The lengths, float64 [B], and the cancelled rows, bool [B], which relation_linear must form densely, too."""
    crow, col = (None, None) if seen is None else seen
    work = torch.float32 if u.dtype in (torch.bfloat16, torch.float16) else u.dtype
    with torch.autocast(u.device.type, enabled=False):
        return relation_row_norm_op(u.to(work), v.to(work), crow, col)[:2]


def gram(v: Tensor, w: Tensor | None = None) -> Tensor:
    """vᵀw in float64 [d, d'], where w is v by default. A block of rows is converted at a time."""
    rows = GRAM_ROWS if v.is_cuda else max(1, GRAM_ENTRIES // max(1, v.shape[1]))
    total = v.new_zeros(v.shape[1], v.shape[1] if w is None else w.shape[1], dtype=torch.float64)
    for begin in range(0, v.shape[0], rows):
        a = v[begin : begin + rows].double()
        total.addmm_(a.mT, a if w is None else w[begin : begin + rows].double())
    return total


class _Seen:
    """The seen entries of a block, with the features of their distinct items and their products s_ui in float64."""

    def __init__(self, crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> None:
        self.entries = ItemEntries(crow, col, v.shape[0])
        self.items = self.entries.by_item[0]
        self.v = v[self.items].double()
        self.products = sampled_dot(crow, self.entries.compact_col, u.double(), self.v)

    def row_sums(self, value: Tensor) -> Tensor:
        """The sum of value [nnz] over the entries of every row: [B]."""
        return spmm(self.entries.crow, torch.zeros_like(self.entries.col), value, value.new_ones(1, 1)).squeeze(1)

    def times_v(self, value: Tensor) -> Tensor:
        """The sum of value · v over the entries of every row: [B, d]."""
        return spmm(self.entries.crow, self.entries.compact_col, value, self.v)


def _fake_row_norm(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    norm, cancelled = (u.new_empty(u.shape[0], dtype=dtype) for dtype in (torch.float64, torch.bool))
    return norm, cancelled, u.new_empty(v.shape[1], v.shape[1], dtype=torch.float64)


@python_op("relation_row_norm", _fake_row_norm)
def _row_norm_op(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    wide, products = u.double(), gram(v)
    full = ((wide @ products) * wide).sum(1).clamp_min_(0)
    cancelled = torch.zeros(u.shape[0], dtype=torch.bool, device=u.device)
    if crow is None or col is None or col.numel() == 0:
        return full.sqrt_(), cancelled, products
    seen = _Seen(crow, col, u, v)
    square = (full - seen.row_sums(seen.products.square())).clamp_min_(0)
    empty = crow.diff() >= v.shape[0]  # rows whose items are all seen
    cancelled = (square < CANCELLED_SHARE * full).logical_and_(~empty)
    norm = square.masked_fill_(empty, 0).sqrt_()
    for block in cancelled_blocks((crow, col), cancelled, v.shape[0]):
        rows = block.mask_(u[block.rows] @ v.mT)
        norm[block.rows] = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norm, cancelled, products


def _fake_row_norm_bwd(
    grad: Tensor, norm: Tensor, cancelled: Tensor, products: Tensor, u: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    need_u, need_v = rest[-2:]
    return u.new_empty(u.shape if need_u else 0), v.new_empty(v.shape if need_v else 0)


@python_op("relation_row_norm_bwd", _fake_row_norm_bwd)
def _row_norm_bwd_op(
    grad: Tensor,
    norm: Tensor,
    cancelled: Tensor,
    products: Tensor,
    u: Tensor,
    v: Tensor,
    crow: Tensor | None,
    col: Tensor | None,
    need_u: bool,
    need_v: bool,
) -> tuple[Tensor, Tensor]:
    c = torch.where(norm <= 0, 0.0, grad / torch.where(norm <= 0, 1.0, norm))
    plain, wide = torch.where(cancelled, 0.0, c)[:, None], u.double()
    # Annotated as Any, because a gradient that is not needed is None.
    du: Any = plain * (wide @ products) if need_u else None
    dv: Any = v @ (wide.mT @ (plain * wide)).to(v.dtype) if need_v else None
    if crow is not None and col is not None and col.numel():
        seen = _Seen(crow, col, u, v)
        if need_u:
            du -= plain * seen.times_v(seen.products)
        if need_v:
            seen.entries.add_transposed_(dv, -seen.products.to(v.dtype), (plain * wide).to(v.dtype))
    if need_u:
        du = du.to(u.dtype)
    if crow is not None and col is not None:
        for block in cancelled_blocks((crow, col), cancelled, v.shape[0]):
            rows = block.mask_(u[block.rows] @ v.mT).mul_(c[block.rows, None].to(u.dtype))
            if need_u:
                du[block.rows] = rows @ v
            if need_v:
                dv.addmm_(rows.mT, u[block.rows])
    return (du if need_u else u.new_empty(0)), (dv if need_v else u.new_empty(0))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*output, *inputs)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _grad(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    needs = ctx.needs_input_grad[:2]
    grads = relation_row_norm_bwd(grad, *ctx.saved_tensors, *needs)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None


relation_row_norm_op = differentiable("relation_row_norm", _grad, _save)
relation_row_norm_bwd = undifferentiable(
    "relation_row_norm_bwd", "relation_row_norm has no second derivative; use mmssl_fast.reference.relation_row_norm"
)
