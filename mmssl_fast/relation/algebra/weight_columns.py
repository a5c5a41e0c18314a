"""W[:, i] as contiguous rows: how the sparse parts of relation_linear read a weight and add to its gradient.

A weight [H, I] stored item-major (``weight.mT`` contiguous) is read and written in place. Of a row-major one only the
columns that a CSR block names are gathered, and added back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.csr_transpose import csr_transpose
from ...ops.spmm import spmm_add_


class ItemEntries:
    """A CSR block of B rows over I items, with its transpose made once, when first asked for.

    crow: int64 [B + 1]; col: int32 or int64 [nnz].
    """

    def __init__(self, crow: Tensor, col: Tensor, n_items: int) -> None:
        self.crow, self.col, self.n_items = crow, col, n_items
        self._by_item: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._compact: Tensor | None = None

    @property
    def by_item(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(items, t_crow, t_row, order) of csr_transpose."""
        if self._by_item is None:
            self._by_item = csr_transpose(self.crow, self.col, self.n_items)
        return self._by_item

    @property
    def compact_col(self) -> Tensor:
        """[nnz]: the place of every entry's item among the distinct items of the block."""
        if self._compact is None:
            self._compact = torch.searchsorted(self.by_item[0], self.col.long())
        return self._compact

    def rows(self) -> Tensor:
        """int64 [B]: 0 .. B − 1, the rows as spmm_add_ wants them."""
        return torch.arange(self.crow.shape[0] - 1, device=self.crow.device)

    def add_transposed_(self, out: Tensor, value: Tensor, x: Tensor) -> None:
        """out[col[e]] += value[e] x[row(e)] for every entry; out [I, d] with contiguous rows."""
        items, t_crow, t_row, order = self.by_item
        spmm_add_(out, items, t_crow, t_row, value[order], x)


class WeightColumns:
    """The columns of a weight [H, I] at the entries of a CSR block."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.item_major = weight.mT.is_contiguous()

    def at(self, entries: ItemEntries) -> tuple[Tensor, Tensor]:
        """(x [n, H], col [nnz]) with x[col[e]] = W[:, entries.col[e]]: the weight itself, or its columns in
        question."""
        if self.item_major:
            return self.weight.mT, entries.col
        return self.weight.index_select(1, entries.by_item[0]).mT.contiguous(), entries.compact_col

    @staticmethod
    def add_(grad: Tensor, entries: ItemEntries, value: Tensor, y: Tensor) -> None:
        """grad[:, col[e]] += value[e] y[row(e)] for every entry; grad [H, I] of either layout, y [B, H]."""
        if grad.mT.is_contiguous():
            entries.add_transposed_(grad.mT, value, y)
            return
        items, t_crow, t_row, order = entries.by_item
        columns = y.new_zeros(items.shape[0], y.shape[1])
        spmm_add_(columns, torch.arange(items.shape[0], device=y.device), t_crow, t_row, value[order], y)
        grad.index_add_(1, items, columns.mT)
