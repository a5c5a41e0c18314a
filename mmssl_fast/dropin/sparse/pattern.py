"""Pattern: where a sparse tensor has entries, sorted by row and by column once, for any values.

Sorting is what preparing a matrix for products in both directions costs. A matrix with the same entries and other
values (dropout of values, reweighting) needs two gathers instead. `Pattern.of`, `Pattern.arrange` and `Snapshot.of`
are called within `modes.outside_modes`, since what they make is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...modes import outside_modes
from ...ops.csr_transpose import csr_transpose
from ...ops.derivatives import is_transforming

Csr = tuple[Tensor, Tensor, Tensor]  # crow int64, col, value

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
    _sides: tuple[_Side, _Side] | None = None

    @classmethod
    def of(cls, matrix: Tensor) -> Pattern:
        indices = [x.clone(memory_format=torch.contiguous_format) for x in stored_indices(matrix)]
        if max(matrix.shape) <= _INT32_MAX:
            indices[-1] = indices[-1].to(torch.int32)
        return cls(matrix.layout, matrix.shape, tuple(indices))

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

    def arrange(self, value: Tensor) -> tuple[Csr, Csr]:
        """The CSR and transposed CSR of the matrix with these values, given in the order in which they are stored."""
        if self._sides is None:
            self._sides = self._sort()
        forward, backward = (
            (side.crow, side.col, value.contiguous() if side.order is None else value.index_select(0, side.order))
            for side in self._sides
        )
        return forward, backward

    def _sort(self) -> tuple[_Side, _Side]:
        first, second = self.indices if self.layout != torch.sparse_coo else self.indices[0].unbind(0)
        n_rows, n_cols = self.shape if self.layout != torch.sparse_csc else reversed(self.shape)
        row = first if self.layout == torch.sparse_coo else torch.repeat_interleave(first.diff()).to(second.dtype)
        order = None if _ascends(row) else _stable_order(row, n_rows)
        by_row = (row, second) if order is None else (row.index_select(0, order), second.index_select(0, order))
        # A compressed tensor made from SciPy's arrays has int32 offsets.
        crow = first.to(torch.int64) if self.layout != torch.sparse_coo else _offsets(row, n_rows)
        t_order = _stable_order(by_row[1], n_cols)
        t_col = by_row[0].index_select(0, t_order)
        forward = _Side(crow, by_row[1], order)
        backward = _Side(_offsets(second, n_cols), t_col, t_order if order is None else order.index_select(0, t_order))
        return (forward, backward) if self.layout != torch.sparse_csc else (backward, forward)


@dataclass(eq=False)
class _Side:
    """crow and col of a CSR, and the stored entry that each of its entries is (None: the same order)."""

    crow: Tensor
    col: Tensor
    order: Tensor | None


@dataclass(eq=False)
class Snapshot:
    """What a sparse tensor held: its pattern and a copy of its values.

    Nothing that torch keeps of a tensor tells of every write: ``.data``, ``.set_`` and NumPy views leave no version,
    and tensors of inference mode have none. So the contents are compared.
    """

    pattern: Pattern
    value: Tensor

    @classmethod
    def of(cls, matrix: Tensor, pattern: Pattern | None = None) -> Snapshot:
        """pattern: of the matrix, where it is known already."""
        pattern = pattern or Pattern.of(matrix)
        return cls(pattern, stored_values(matrix).clone(memory_format=torch.contiguous_format))

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
    if matrix.layout == torch.sparse_coo:
        return (matrix._indices(),)
    if matrix.layout == torch.sparse_csr:
        return matrix.crow_indices(), matrix.col_indices()
    if matrix.layout == torch.sparse_csc:
        return matrix.ccol_indices(), matrix.row_indices()
    raise TypeError(f"Adjacency.from_torch: a sparse COO, CSR or CSC tensor is needed, got {matrix.layout}")


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


def _stable_order(ids: Tensor, n: int) -> Tensor:
    """torch.argsort(ids, stable=True) of ids in [0, n); on the CPU by counting, which takes O(entries + n)."""
    if ids.device.type != "cpu":
        return torch.argsort(ids, stable=True)
    order = csr_transpose(torch.tensor([0, ids.numel()]), ids, n)[3]
    return order.to(torch.int32) if ids.numel() <= _INT32_MAX else order


def _offsets(ids: Tensor, n: int) -> Tensor:
    crow = torch.zeros(n + 1, dtype=torch.int64, device=ids.device)
    torch.cumsum(torch.bincount(ids, minlength=n), 0, out=crow[1:])
    return crow


def transposed_order(col: Tensor, n_cols: int) -> Tensor:
    """The entry of a CSR with these columns that each entry of its transpose is."""
    return _stable_order(col, n_cols)
