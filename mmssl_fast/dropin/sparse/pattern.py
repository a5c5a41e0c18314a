"""Pattern: where a sparse tensor has entries, and in which order they are sorted by row and by column.

A matrix with a new pattern is sorted together with its values. When a second matrix with the same pattern and other
values comes (dropout of values, reweighting), the pattern is sorted once more and its orders are kept, so that this
matrix and all later ones need two gathers instead of sorting.

A matrix whose entries are a part of a known pattern (dropout of edges) is sorted like a new one. To find the part, and
to select it from the known transpose, all entries of the pattern have to be read twice, with a branch for each that no
processor can predict. This takes 2.4 to 5 times as long as sorting the part (half of 9 thousand to 2 million entries).

`Pattern.of`, `Pattern.arrange`, `Pattern.sort` and `Snapshot.of` are called within `modes.outside_modes`, since what
they make is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...modes import outside_modes
from ...ops.coo_to_csr import coo_to_csr, coo_to_csr_values
from ...ops.derivatives import is_transforming

Csr = tuple[Tensor, Tensor, Tensor]  # crow int64, col, value
T = TypeVar("T")

_INT32_MAX = 2**31 - 1


@dataclass(eq=False)
class Pattern:
    """The entries of a COO, CSR or CSC tensor: copies of its indices, which no later write to it can change.

    layout, shape: of the tensor.
    indices: the one [2, nnz] of COO, (offsets, column) of CSR, (offsets, row) of CSC, as stored; int32 where they fit.
    """

    layout: torch.layout
    shape: torch.Size
    indices: tuple[Tensor, ...]
    _orders: tuple[_Side, _Side] | None = None

    @classmethod
    def of(cls, matrix: Tensor) -> Pattern:
        *first, last = stored_indices(matrix)
        ids = torch.int32 if max(matrix.shape) <= _INT32_MAX else last.dtype
        copies = [x.clone(memory_format=torch.contiguous_format) for x in first]
        copies.append(last.to(ids, copy=True, memory_format=torch.contiguous_format))
        return cls(matrix.layout, matrix.shape, tuple(copies))

    @property
    def entries(self) -> int:
        return self.indices[-1].shape[-1]

    def matches(self, matrix: Tensor) -> bool:
        """Whether the matrix has exactly these entries, stored in this order."""
        if matrix.layout != self.layout or matrix.shape != self.shape:
            return False
        if is_transforming():  # torch.func would wrap what is read
            with outside_modes():
                return all(map(same_bits, stored_indices(matrix), self.indices))
        return all(map(same_bits, stored_indices(matrix), self.indices))

    def sort(self, value: Tensor) -> tuple[Csr, Csr]:
        """The CSR and transposed CSR of the matrix with these values, given in the order in which they are stored.

        Equals `arrange`, for a pattern that is likely to be used once.
        """
        row, col, n_rows, n_cols = self._coordinates()
        crow, by_row, sorted_value, t_crow, by_col, t_value = coo_to_csr_values(row, col, value, n_rows, n_cols)
        return self._sides_of((crow, by_row, sorted_value), (t_crow, by_col, t_value))

    def arrange(self, value: Tensor) -> tuple[Csr, Csr]:
        """The same by two gathers; the first call sorts the pattern."""
        if self._orders is None:
            row, col, n_rows, n_cols = self._coordinates()
            crow, by_row, order, t_crow, by_col, t_order = coo_to_csr(row, col, n_rows, n_cols)
            self._orders = self._sides_of(
                _Side(crow, by_row, None if _ascends(row) else order), _Side(t_crow, by_col, t_order)
            )
        forward, backward = (
            (side.crow, side.col, value.contiguous() if side.order is None else value.index_select(0, side.order))
            for side in self._orders
        )
        return forward, backward

    def _coordinates(self) -> tuple[Tensor, Tensor, int, int]:
        """Row, column and numbers of both, of the matrix or, for CSC, of its transpose."""
        first, second = self.indices if self.layout != torch.sparse_coo else self.indices[0].unbind(0)
        n_rows, n_cols = self.shape if self.layout != torch.sparse_csc else reversed(self.shape)
        row = first if self.layout == torch.sparse_coo else torch.repeat_interleave(first.diff()).to(second.dtype)
        return row, second, n_rows, n_cols

    def _sides_of(self, by_row: T, by_col: T) -> tuple[T, T]:
        return (by_row, by_col) if self.layout != torch.sparse_csc else (by_col, by_row)


@dataclass(eq=False)
class _Side:
    """crow and col of a CSR, and the stored entry that each of its entries is (None: the same order)."""

    crow: Tensor
    col: Tensor
    order: Tensor | None


@dataclass(eq=False)
class Snapshot:
    """What a sparse tensor held: its pattern and a copy of its values. is_new: whether no other tensor had the pattern.

    Nothing that torch keeps of a tensor tells of every write: ``.data``, ``.set_`` and NumPy views leave no version,
    and tensors of inference mode have none. So the contents are compared.
    """

    pattern: Pattern
    value: Tensor
    is_new: bool

    @classmethod
    def of(cls, matrix: Tensor, pattern: Pattern | None = None) -> Snapshot:
        """pattern: of the matrix, where it is known already."""
        found = pattern or Pattern.of(matrix)
        return cls(found, stored_values(matrix).clone(memory_format=torch.contiguous_format), pattern is None)

    def sides(self) -> tuple[Csr, Csr]:
        """The CSR and transposed CSR of the matrix."""
        return self.pattern.sort(self.value) if self.is_new else self.pattern.arrange(self.value)

    def is_still(self, matrix: Tensor) -> bool:
        """Whether the matrix holds, bit for bit, what it held."""
        if not self.pattern.matches(matrix):
            return False
        if is_transforming():
            with outside_modes():
                return same_bits(stored_values(matrix), self.value)
        return same_bits(stored_values(matrix), self.value)


def stored_indices(matrix: Tensor) -> tuple[Tensor, ...]:
    """The stored index tensors of a COO (one, [2, nnz]), CSR (offsets, column) or CSC (offsets, row)."""
    layout = matrix.layout if isinstance(matrix, Tensor) else type(matrix).__name__
    if layout == torch.sparse_coo:
        return (matrix._indices(),)
    if layout == torch.sparse_csr:
        return matrix.crow_indices(), matrix.col_indices()
    if layout == torch.sparse_csc:
        return matrix.ccol_indices(), matrix.row_indices()
    raise TypeError(f"Adjacency: a sparse COO, CSR or CSC tensor is needed, got {layout}")


def stored_values(matrix: Tensor) -> Tensor:
    return (matrix._values() if matrix.layout == torch.sparse_coo else matrix.values()).detach()


def stored_entries(matrix: Tensor) -> int:
    if is_transforming():  # torch.func would wrap what is counted
        with outside_modes():
            return matrix._nnz()
    return matrix._nnz()


def same_bits(x: Tensor, kept: Tensor) -> bool:
    """Whether x is what was kept of it, NaN and signs of zero included; integers may have been kept as int32."""
    if x.shape != kept.shape or x.device != kept.device or x.is_floating_point() != kept.is_floating_point():
        return False
    if x.is_floating_point() and x.dtype != kept.dtype:
        return False
    if not x.is_cpu:
        if x.is_floating_point():
            bits = torch.int32 if x.itemsize == 4 else torch.int64  # NaN equals itself, and 0.0 is not -0.0
            x, kept = x.view(bits), kept.view(bits)
        return torch.equal(x, kept.to(x.dtype))
    found, known = x.numpy(), kept.numpy()
    if known.dtype.kind == "f":
        found, known = found.view(f"i{known.itemsize}"), known.view(f"i{known.itemsize}")
    # Several times torch.equal's speed.
    return bool(np.logical_and.reduce(np.equal(found, known), axis=None))


def _ascends(ids: Tensor) -> bool:
    if ids.device.type != "cpu":
        return not bool((ids[1:] < ids[:-1]).any())
    array = ids.numpy()
    return bool((array[1:] >= array[:-1]).all())


def transposed_order(crow: Tensor, col: Tensor, n_cols: int) -> Tensor:
    """The entry of this CSR that each entry of its transpose is."""
    row = torch.repeat_interleave(crow.diff()).to(col.dtype)
    return coo_to_csr(row, col, crow.numel() - 1, n_cols)[5]
