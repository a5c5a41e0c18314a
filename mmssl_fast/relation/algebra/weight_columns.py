"""The columns of a weight as contiguous rows, for the sparse parts of relation_linear.

An item-major weight [H, I] (``weight.mT`` contiguous) is read in place. From a row-major weight, and from one in
float16 or bfloat16, which is converted, the columns that occur in a CSR block are copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.csr_transpose import csr_transpose
from ...ops.spmm import spmm_add_
from ...precision import work_dtype
from ...static_shapes import is_static


class ItemEntries:
    """A CSR block of B rows over I items, and its transpose, which is computed when it is first needed.

    crow: int64 [B + 1]. col: int32 or int64 [nnz].
    """

    def __init__(self, crow: Tensor, col: Tensor, n_items: int) -> None:
        self.crow, self.col, self.n_items = crow, col, n_items
        self._by_item: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._compact: Tensor | None = None

    @property
    def by_item(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The transpose: (items, t_crow, t_row, order) of `csr_transpose`."""
        if self._by_item is None:
            self._by_item = csr_transpose(self.crow, self.col, self.n_items)
        return self._by_item

    @property
    def compact_col(self) -> Tensor:
        """The index of the item of every entry among the distinct items of the block: [nnz]."""
        if self._compact is None:
            items, t_crow, _, order = self.by_item
            if is_static(self.col.device):  # the transpose is padded
                self._compact = torch.searchsorted(items, self.col.long())
            else:
                by_item = torch.repeat_interleave(t_crow.diff(), output_size=self.col.numel())
                self._compact = torch.empty_like(order).index_copy_(0, order, by_item)
        return self._compact

    def rows(self) -> Tensor:
        """The argument `rows` of spmm_add_ that adds to all rows: 0 to B − 1, int64 [B]."""
        return torch.arange(self.crow.shape[0] - 1, device=self.crow.device)

    def add_transposed_(self, out: Tensor, value: Tensor, x: Tensor) -> None:
        """Adds value[e] x[row(e)] to out[col[e]] for every entry e; out is [I, d] with contiguous rows."""
        items, t_crow, t_row, order = self.by_item
        spmm_add_(out, items, t_crow, t_row, value[order], x)


class WeightColumns:
    """The columns of a weight [H, I] at the entries of a CSR block, in float32 or float64."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.dtype = weight, work_dtype(weight.dtype)
        self.in_place = weight.mT.is_contiguous() and weight.dtype == self.dtype

    def gather(self, entries: ItemEntries) -> tuple[Tensor, Tensor]:
        """(x [n, H], col [nnz]) such that x[col[e]] = W[:, entries.col[e]] for every entry e. x is the transposed
        weight itself, or a copy of the columns that occur."""
        if self.in_place:
            return self.weight.mT, entries.col
        if self.weight.mT.is_contiguous():
            return self.weight.mT.index_select(0, entries.by_item[0]).to(self.dtype), entries.compact_col
        return self.weight.index_select(1, entries.by_item[0]).mT.contiguous().to(self.dtype), entries.compact_col
