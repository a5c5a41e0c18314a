"""Adjacency: a sparse matrix with its transpose at hand, which takes the place of a torch sparse tensor in products."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..modes import lasting, outside_modes
from ..ops.derivatives import is_transforming
from ..ops.propagate import propagate_csr

_INT32_MAX = 2**31 - 1
_PRODUCTS = (torch.mm, torch.matmul, torch.sparse.mm, Tensor.mm, Tensor.matmul, Tensor.__matmul__)


class Adjacency:
    """A constant R x C matrix as CSR and transposed CSR: ``adjacency @ x`` equals ``to_torch() @ x``, for any x [C, d].

    Any values, any shape; entries named twice are summed. torch.mm, torch.matmul, torch.sparse.mm and ``@`` take it as
    their first factor and are differentiable in x any number of times, along the stored transpose: no atomics, the same
    bits for any number of threads. Make one with `from_torch` or `from_scipy`. What else code asks of a sparse tensor
    (`cuda`, `to`, `float`, `t`, `shape`, `coalesce`, `to_dense`) is here; anything more is had from `to_torch()`.
    """

    is_sparse = True
    requires_grad = False

    def __init__(self, forward: tuple[Tensor, Tensor, Tensor], backward: tuple[Tensor, Tensor, Tensor]) -> None:
        """forward: (crow int64 [R + 1], col [nnz], value [nnz]); backward: the same of the transpose, [C + 1]."""
        self._forward, self._backward = (tuple(lasting(x) for x in side) for side in (forward, backward))

    @classmethod
    def from_torch(cls, matrix: Tensor) -> Adjacency:
        """Of a COO, CSR or CSC tensor; its values are copied as constants."""
        return cls.from_snapshot(Snapshot.of(matrix))

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> Adjacency:
        """Of the matrix as it was."""
        with outside_modes():
            if snapshot.layout == torch.sparse_csc:
                return cls(*_both_ways(*snapshot.parts, snapshot.shape[::-1], torch.sparse_csr)).t()
            return cls(*_both_ways(*snapshot.parts, snapshot.shape, snapshot.layout))

    @classmethod
    def from_scipy(cls, matrix: sp.spmatrix | sp.sparray, dtype: torch.dtype = torch.float32) -> Adjacency:
        """Of any SciPy sparse matrix, its values in `dtype`."""
        coo = matrix.tocoo()
        indices = torch.stack([torch.as_tensor(ids, dtype=torch.int64) for ids in (coo.row, coo.col)])
        value = torch.as_tensor(coo.data).to(dtype)
        return cls.from_torch(torch.sparse_coo_tensor(indices, value, coo.shape, check_invariants=True))

    def mm(self, x: Tensor) -> Tensor:
        """self @ x: x [C, d] of the matrix's dtype and device → [R, d]."""
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[0] != self.shape[1]:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"Adjacency.mm: x must be [{self.shape[1]}, d], got {shape}")
        if x.dtype != self.dtype or x.device != self.device:
            raise ValueError(
                f"Adjacency.mm: x is {x.dtype} on {x.device}, the matrix {self.dtype} on {self.device}; use .to()"
            )
        return propagate_csr(*self._forward, *self._backward, None, None, x)

    __matmul__ = matmul = mm

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self._forward[0].numel() - 1, self._backward[0].numel() - 1))

    def size(self, dim: int | None = None):
        return self.shape if dim is None else self.shape[dim]

    @property
    def dtype(self) -> torch.dtype:
        return self._forward[2].dtype

    @property
    def device(self) -> torch.device:
        return self._forward[2].device

    def to(self, *args, **kwargs) -> Adjacency:
        """As Tensor.to(device), .to(dtype), .to(device, dtype): itself when nothing changes."""
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        device, dtype = device or self.device, dtype or self.dtype
        if device == self.device and dtype == self.dtype:
            return self
        return self._map(lambda ids: ids.to(device), lambda value: value.to(device, dtype))

    def cuda(self, *args, **kwargs) -> Adjacency:
        return self._map(*(2 * (lambda x: x.cuda(*args, **kwargs),)))

    def cpu(self) -> Adjacency:
        return self.to("cpu")

    def float(self) -> Adjacency:
        return self.to(torch.float32)

    def double(self) -> Adjacency:
        return self.to(torch.float64)

    def t(self) -> Adjacency:
        return Adjacency(self._backward, self._forward)

    T = mT = property(t)

    def coalesce(self) -> Adjacency:
        return self

    detach = coalesce

    def to_torch(self) -> Tensor:
        """The same matrix as a coalesced COO tensor."""
        crow, col, value = self._forward
        indices = torch.stack((torch.repeat_interleave(crow.diff()), col.long()))
        return torch.sparse_coo_tensor(indices, value, self.shape, check_invariants=False).coalesce()

    def to_dense(self) -> Tensor:
        return self.to_torch().to_dense()

    def _map(self, ids, value) -> Adjacency:
        return Adjacency(*((ids(x[0]), ids(x[1]), value(x[2])) for x in (self._forward, self._backward)))

    def __getattr__(self, name: str):
        raise AttributeError(f"Adjacency has no {name!r}; use .to_torch() for the torch sparse tensor")

    def __repr__(self) -> str:
        return f"Adjacency({self.shape[0]} x {self.shape[1]}, {self._forward[1].numel()} entries, {self.device})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in _PRODUCTS and len(args) == 2 and not kwargs and isinstance(args[0], cls):
            return args[0].mm(args[1])
        name = getattr(func, "__name__", str(func))
        raise TypeError(f"{name} does not take an Adjacency but as the first factor of a product; use .to_torch()")


@dataclass(eq=False)
class Snapshot:
    """What a sparse tensor held: a copy of its stored tensors, which no later write to it can change.

    Nothing that torch keeps of a tensor tells of every write: ``.data``, ``.set_`` and NumPy views leave no version,
    and tensors of inference mode have none. So the contents are compared.
    """

    layout: torch.layout
    shape: torch.Size
    parts: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, matrix: Tensor) -> Snapshot:
        """Of a COO, CSR or CSC tensor. Copies its indices, as int32 where they fit, and its values."""
        with outside_modes():
            parts = [x.clone(memory_format=torch.contiguous_format) for x in _stored(matrix)]
            if max(matrix.shape) <= _INT32_MAX:
                parts[1] = parts[1].to(torch.int32)
                parts[0] = parts[0].to(torch.int32) if matrix.layout == torch.sparse_coo else parts[0]
            return cls(matrix.layout, matrix.shape, tuple(parts))

    def is_still(self, matrix: Tensor) -> bool:
        """Whether the matrix holds, bit for bit, what it held."""
        if matrix.layout != self.layout or matrix.shape != self.shape:
            return False
        with outside_modes() if is_transforming() else nullcontext():  # torch.func would wrap what is read
            return all(_same(x, kept) for x, kept in zip(_stored(matrix), self.parts, strict=True))


def _stored(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The stored tensors of a COO (row, column, value), CSR (offsets, column, value) or CSC (offsets, row, value)."""
    if matrix.layout == torch.sparse_coo:
        return *matrix._indices(), matrix._values().detach()
    if matrix.layout == torch.sparse_csr:
        return matrix.crow_indices(), matrix.col_indices(), matrix.values().detach()
    if matrix.layout == torch.sparse_csc:
        return matrix.ccol_indices(), matrix.row_indices(), matrix.values().detach()
    raise TypeError(f"Adjacency.from_torch: a sparse COO, CSR or CSC tensor is needed, got {matrix.layout}")


def _same(x: Tensor, kept: Tensor) -> bool:
    if x.shape != kept.shape or x.device != kept.device or x.is_floating_point() != kept.is_floating_point():
        return False
    if x.is_floating_point():
        if x.dtype != kept.dtype:
            return False
        bits = {4: torch.int32, 8: torch.int64}[x.itemsize]  # NaN equals itself, and 0.0 is not -0.0
        x, kept = x.view(bits), kept.view(bits)
    if x.device.type != "cpu":
        return torch.equal(x, kept.to(x.dtype))
    return np.array_equal(x.numpy(), kept.numpy())  # several times as fast as torch.equal


def _both_ways(
    first: Tensor, col: Tensor, value: Tensor, shape: torch.Size, layout: torch.layout
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The CSR and transposed CSR of entries given as rows (COO, in any order) or offsets (CSR) with columns."""
    row = first if layout == torch.sparse_coo else torch.repeat_interleave(first.diff())
    if bool((row[1:] < row[:-1]).any()):
        order = torch.argsort(row, stable=True)
        row, col, value = row[order], col[order], value[order]
    order = torch.argsort(col, stable=True)
    return _csr(row, col, value, *shape), _csr(col[order], row[order], value[order], *reversed(shape))


def _csr(row: Tensor, col: Tensor, value: Tensor, n_rows: int, n_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """(crow, col, value) of entries that come by row."""
    crow = torch.zeros(n_rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=n_rows), 0, out=crow[1:])
    index = torch.int32 if max(n_rows, n_cols) <= _INT32_MAX else torch.int64
    return crow, col.to(index), value.contiguous()
