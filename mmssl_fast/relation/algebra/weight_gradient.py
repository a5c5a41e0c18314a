"""The gradient of the weight of a first layer as a matrix.

PendingGradient has the same methods, but stores the gradient in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...ops.spmm import spmm_add_
from ...precision import addmm_, mm_out, work_dtype
from ...tiles import item_tiles
from .weight_columns import ItemEntries


class DenseGradient:
    """dL/dW [H, I] in the layout of the weight, so that autograd can use it as ``weight.grad`` without a copy. It is
    float32 or float64. `start` must be called first."""

    def __init__(self, weight: Tensor) -> None:
        self.value = torch.empty_like(weight, dtype=work_dtype(weight.dtype))

    def start(self, factors: Sequence[tuple[Tensor, Tensor]], gemm: torch.dtype) -> None:
        """Sets dWᵀ to Σ v t, with v [I, k] and t [k, H] rounded to gemm, or to 0 if there are no factors. A single
        product assigns it, so that dW need not be filled with zeros first."""
        if factors:
            v = factors[0][0] if len(factors) == 1 else torch.cat([v for v, _ in factors], 1)
            mm_out(v, torch.cat([t for _, t in factors]), self.value.mT, gemm)
        else:
            self.value.zero_()

    def add_sparse(self, entries: ItemEntries, value: Tensor, y: Tensor) -> None:
        """Adds value[e] y[row(e)] to dW[:, col[e]] for every entry e; y is [B, H]."""
        if not value.numel():
            return
        if self.value.mT.is_contiguous():
            entries.add_transposed_(self.value.mT, value, y)
            return
        items, t_crow, t_row, order = entries.by_item
        columns = y.new_zeros(items.shape[0], y.shape[1])
        spmm_add_(columns, torch.arange(items.shape[0], device=y.device), t_crow, t_row, value[order], y)
        self.value.index_add_(1, items, columns.mT)

    def add_rows(self, x: Tensor, y: Tensor, gemm: torch.dtype | None = None) -> None:
        """Adds xᵀ y to dWᵀ, with x [b, I] and y [b, H], rounded to gemm if it is given."""
        addmm_(self.value.mT, x.mT, y, gemm or y.dtype)

    def add_tiles(self, tile: Callable[[int, int], Tensor], y: Tensor) -> None:
        """Like add_rows, with x given by a function tile(begin, end) → [b, end − begin]."""
        for begin, end in item_tiles(y.shape[0], self.value.shape[1]):
            self.value[:, begin:end].mT.addmm_(tile(begin, end).to(y.dtype).mT, y)
