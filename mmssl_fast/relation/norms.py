"""Lengths of rows that are sums of scaled components: ‖Σ r_c c‖² = Σ r_c r_c' ⟨c, c'⟩, computed in float64.

For the real rows of Eq. 5, this is ‖P + ζ R‖² = ‖P‖² + 2ζ P·R + ζ²‖R‖² with Gumbel rows P and generated rows R. If the
terms of a row cancel to less than CANCELLED_SHARE of the squared sum of their lengths, the row is formed densely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..graph import SeenRows
from ..ops.sampled_dot import sampled_dot
from ..static_shapes import rows_to_form_densely
from ..tiles import item_tiles
from .algebra.cancelled import BLOCK_ELEMENTS, CANCELLED_SHARE
from .algebra.relation_row_norm import gram
from .components import Dense, Generated, seen_pairs
from .gumbel import Component, Gumbel


def block_norm(terms: Sequence[tuple[float | Tensor, Component]], dense_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """Row lengths of Σ scale · component, float64 [B]. A zero row has length 0 and gradient 0.

    Args:
        terms: (scale, component) pairs. A scale is a float or [B].
        dense_rows: function that forms the given rows, int64 [b] → [b, I].
    """
    scales = [s.double() if isinstance(s, Tensor) else s for s, _ in terms]
    components = [c for _, c in terms]
    # The inner products come first, because those with dense Gumbel rows also compute and cache ‖P‖.
    products = [(i, j, inner(components[i], components[j])) for i, j in combinations(range(len(terms)), 2)]
    norms = [c.norm() for c in components]
    if len(terms) == 1:
        return norms[0] * (scales[0].abs() if isinstance(scales[0], Tensor) else abs(scales[0]))
    square: Any = sum((s * n) ** 2 for s, n in zip(scales, norms, strict=True))
    for i, j, product in products:
        square = square + 2 * scales[i] * scales[j] * product
    with torch.no_grad():
        lengths: Any = sum((s * n).abs() for s, n in zip(scales, norms, strict=True))
        badness = CANCELLED_SHARE * lengths.square() / square.clamp_min(0)
        badness = badness.nan_to_num(0, posinf=torch.inf)  # a zero row has 0 / 0 here
        for mask in (c.cancelled for c in components if isinstance(c, Generated) and c.cancelled is not None):
            badness = badness.masked_fill(mask, torch.inf)
        rows = rows_to_form_densely(badness)
        cancelled = torch.zeros_like(badness, dtype=torch.bool).index_fill_(0, rows, True)
    # The gradient of sqrt at 0 is infinite. The inner `where` keeps it out of the graph, so that a zero row has
    # gradient 0 instead of NaN.
    positive = ~(square <= 0) & ~cancelled  # also true for NaN, so that NaN is not replaced
    norm = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
    for block in rows.split(max(1, BLOCK_ELEMENTS // max(1, terms[0][1].n_items))) if rows.numel() else ():
        # checkpoint forms the dense rows again in the backward pass. Saving them would take [b, I] memory.
        norm = norm.index_put((block,), checkpoint(_dense_norm, dense_rows, block, use_reentrant=False))
    return norm


def _dense_norm(dense_rows: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(dense_rows(rows), dim=1, dtype=torch.float64)


def inner(a: Component, b: Component) -> Tensor:
    """The inner products of the rows of two components, float64 [B]. Exactly 0 for a generated row whose items are all
    seen."""
    product = _inner(a, b)
    for x in (a, b):
        if isinstance(x, Generated) and x.seen is not None:
            product = product.masked_fill(x.seen.crow.diff() >= x.n_items, 0)
    return product


def _inner(a: Component, b: Component) -> Tensor:
    for x, y in ((a, b), (b, a)):
        if isinstance(x, Gumbel) and isinstance(y, Generated):
            return x.inner_generated(y)
        if isinstance(x, Gumbel):
            return _inner_by_tiles(x, y)
        if isinstance(x, Dense) and isinstance(y, Generated):
            return _dense_generated(x, y)
    return _generated_generated(a, cast(Generated, b)) if isinstance(a, Generated) else _inner_by_tiles(a, b)


def _generated_generated(a: Generated, b: Generated) -> Tensor:
    ua, ub = a.u.double(), b.u.double()
    total = ((ua @ _Gram.apply(a.v, b.v)) * ub).sum(1)
    seen = _union(a.seen, b.seen, a.n_items)
    if seen is None:
        return total
    row, item = seen_pairs(seen)
    items, place = torch.unique(item, return_inverse=True)
    products = sampled_dot(seen.crow, place, ua, a.v[items].double()) * sampled_dot(
        seen.crow, place, ub, b.v[items].double()
    )
    return total.index_add(0, row, -products)


def _dense_generated(a: Dense, b: Generated) -> Tensor:
    dtype = torch.promote_types(a.dtype, b.dtype)
    total = ((a.x.to(dtype) @ b.v.to(dtype)) * b.u).sum(1, dtype=torch.float64)
    if b.seen is None:
        return total
    row, item = seen_pairs(b.seen)
    return total.index_add(0, row, -(a.x[row, item] * sampled_dot(*b.seen, b.u, b.v)).double())


def _inner_by_tiles(a: Component, b: Component) -> Tensor:
    total = torch.zeros(a.n_rows, dtype=torch.float64, device=a.device)
    for begin, end in item_tiles(a.n_rows, a.n_items):
        total = total + (a.tile(begin, end) * b.tile(begin, end)).sum(1, dtype=torch.float64)
    return total


def _union(a: SeenRows | None, b: SeenRows | None, n_items: int) -> SeenRows | None:
    if a is None or b is None or a is b:
        return b if a is None else a
    keys = torch.unique(torch.cat([row * n_items + item for row, item in (seen_pairs(a), seen_pairs(b))]))
    n_rows = a.crow.numel() - 1
    edges = torch.arange(n_rows + 1, device=keys.device) * n_items
    return SeenRows(torch.searchsorted(keys, edges), keys % n_items)


class _Gram(torch.autograd.Function):
    """vᵀw in float64 [d, d'], without float64 copies of v and w."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(v, w)
        return gram(v, w)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, w = ctx.saved_tensors
        return w @ grad.mT.to(w.dtype), v @ grad.to(v.dtype)
