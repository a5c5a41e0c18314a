"""Adjacency: a sparse matrix together with its transpose, which replaces a torch sparse tensor in products."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NoReturn

import scipy.sparse as sp
import torch
from torch import Tensor

from ...modes import lasting, outside_modes
from ...ops.derivatives import is_transforming
from ...ops.propagate import propagate_csr
from . import products
from .pattern import Csr, Snapshot, transposed_order

_propagate = torch.ops.mmssl_fast.propagate.default


class Adjacency:
    """A constant R x C matrix as CSR and transposed CSR: ``adjacency @ x`` equals ``to_torch() @ x``, for any x [C, d].

    Values and shape are arbitrary, and repeated entries are summed. It can be a factor, on either side, of torch.mm,
    torch.mv, torch.matmul, ``@``, torch.addmm, torch.sparse.mm, torch.sparse.addmm and F.linear. Products are
    differentiable in the dense factor any number of times. The backward pass uses the stored transpose, without
    atomics, so results are bit-identical for any number of threads. Create one with `from_torch` or `from_scipy`.

    It also has these methods of a sparse tensor: `cuda`, `to`, `float`, `t`, `shape`, `coalesce`, `indices`, `values`,
    `to_dense`; and these of a torch_sparse.SparseTensor: `matmul`, `sum`, `sparse_size`, `nnz`, `coo`, `csr`,
    `set_value`. The tensors that they return are copies. For everything else, use `to_torch()`.

    >>> import scipy.sparse as sp
    >>> adjacency = Adjacency.from_scipy(sp.csr_matrix([[0.0, 2.0], [1.0, 0.0]]))
    >>> adjacency @ torch.tensor([[1.0], [10.0]])
    tensor([[20.],
            [ 1.]])
    >>> adjacency.sum(dim=0)
    tensor([1., 2.])
    """

    is_adjacency = True
    is_sparse = True
    requires_grad = False
    ndim = 2

    def __init__(self, forward: Csr, backward: Csr) -> None:
        """forward: (crow int64 [R + 1], col [nnz], value [nnz]); backward: the same of the transpose, [C + 1]."""
        self._forward, self._backward = _lasting(forward), _lasting(backward)
        self._order: Tensor | None = None  # of `set_value`

    @classmethod
    def from_torch(cls, matrix: Tensor) -> Adjacency:
        """From a COO, CSR or CSC tensor. Its values are copied as constants."""
        with outside_modes():
            return cls.from_snapshot(Snapshot.of(matrix))

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> Adjacency:
        """Of the matrix as it was; called within `modes.outside_modes`."""
        return cls(*snapshot.sides())

    @classmethod
    def from_scipy(cls, matrix: sp.spmatrix | sp.sparray, dtype: torch.dtype = torch.float32) -> Adjacency:
        """From any SciPy sparse matrix, with its values converted to `dtype`."""
        if not sp.issparse(matrix):
            raise TypeError(f"Adjacency.from_scipy: a SciPy sparse matrix is needed, got {type(matrix).__name__}")
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
        return _multiply(self, x)

    def matmul(self, x: Tensor, reduce: str = "sum") -> Tensor:
        """self @ x for x [C, d] or [C]; equals torch_sparse.matmul. reduce: only "sum" (or "add")."""
        if reduce not in ("sum", "add"):
            raise ValueError(f'Adjacency.matmul: reduce must be "sum", got {reduce!r}; use .to_torch()')
        return self.mm(x[:, None])[:, 0] if isinstance(x, Tensor) and x.ndim == 1 else self.mm(x)

    __matmul__ = spmm = mv = matmul

    def sum(self, dim: int | None = None) -> Tensor:
        """Equals ``to_dense().sum(dim)``: [R] for dim=1, [C] for dim=0, the total without dim."""
        if dim is None:
            return self._forward[2].sum()
        side = self if _axis(dim) == 1 else self.t()
        return side.mv(torch.ones(side.shape[1], dtype=self.dtype, device=self.device))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self._forward[0].numel() - 1, self._backward[0].numel() - 1))

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    sparse_size = size

    def sparse_sizes(self) -> tuple[int, int]:
        return self.shape[0], self.shape[1]

    def dim(self) -> int:
        return 2

    def nnz(self) -> int:
        """The number of stored entries."""
        return self._forward[1].numel()

    _nnz = nnz

    @property
    def dtype(self) -> torch.dtype:
        return self._forward[2].dtype

    @property
    def device(self) -> torch.device:
        return self._forward[2].device

    def to(self, *args: Any, **kwargs: Any) -> Adjacency:
        """Like Tensor.to(device), .to(dtype), .to(device, dtype): returns itself if nothing changes."""
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        device, dtype = device or self.device, dtype or self.dtype
        if device == self.device and dtype == self.dtype:
            return self
        return self._map(lambda ids: ids.to(device), lambda value: value.to(device, dtype))

    def cuda(self, *args: Any, **kwargs: Any) -> Adjacency:
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

    def transpose(self, dim0: int, dim1: int) -> Adjacency:
        return self if _axis(dim0) == _axis(dim1) else self.t()

    def coalesce(self) -> Adjacency:
        return self

    detach = coalesce

    def is_coalesced(self) -> bool:
        return True

    def coo(self) -> tuple[Tensor, Tensor, Tensor]:
        """(row int64 [nnz], column int64 [nnz], value [nnz]), ascending by row."""
        crow, col, value = self._forward
        return torch.repeat_interleave(crow.diff()), col.long(), value.clone()

    def csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """(offsets int64 [R + 1], column int64 [nnz], value [nnz])."""
        crow, col, value = self._forward
        return crow.clone(), col.long(), value.clone()

    def indices(self) -> Tensor:
        """int64 [2, nnz], in the order of `values`."""
        return torch.stack(self.coo()[:2])

    def values(self) -> Tensor:
        return self._forward[2].clone()

    _indices, _values = indices, values

    def set_value(self, value: Tensor) -> Adjacency:
        """The matrix with the same entries and other values, without sorting, for reweighting or dropout of values.

        value: [nnz] in the order of `values`. The values are copied as constants.
        """
        crow, col, old = self._forward
        if value.shape != old.shape or value.device != old.device:
            raise ValueError(
                f"Adjacency.set_value: value must be [{old.numel()}] on {old.device}, got {list(value.shape)} on "
                f"{value.device}"
            )
        with outside_modes():
            if self._order is None:
                self._order = transposed_order(crow, col, self.shape[1])
            value = value.detach().clone()
            made = Adjacency((crow, col, value), (*self._backward[:2], value.index_select(0, self._order)))
        made._order = self._order
        return made

    def to_torch(self) -> Tensor:
        """The same matrix as a coalesced COO tensor."""
        row, col, value = self.coo()
        return torch.sparse_coo_tensor(torch.stack((row, col)), value, self.shape, check_invariants=False).coalesce()

    def to_dense(self) -> Tensor:
        return self.to_torch().to_dense()

    def _map(self, ids: Callable[[Tensor], Tensor], value: Callable[[Tensor], Tensor]) -> Adjacency:
        forward, backward = ((ids(x[0]), ids(x[1]), value(x[2])) for x in (self._forward, self._backward))
        return Adjacency(forward, backward)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Adjacency has no {name!r}; use .to_torch() for the torch sparse tensor")

    def __repr__(self) -> str:
        return f"Adjacency({self.shape[0]} x {self.shape[1]}, {self.nnz()} entries, {self.device})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch._sparse_sum and len(args) in (1, 2) and not kwargs:  # torch.sparse.sum
            return args[0].sum(args[1]).to_sparse() if len(args) == 2 else args[0].sum()
        product = products.read(func, args, kwargs or {})
        if isinstance(product, products.Product) and isinstance(product.matrix, cls):
            if isinstance(product.x, Tensor) and product.x.layout == torch.strided and product.x.ndim in (1, 2):
                return product.of(product.matrix)
        name = getattr(func, "__name__", str(func))
        raise TypeError(
            f"{name} supports an Adjacency only as a factor of a product with a dense matrix; use .to_torch()"
        )


def _multiply(adjacency: Adjacency, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or is_transforming() or torch._C._get_tracing_state() is not None:
        return propagate_csr(*adjacency._forward, *adjacency._backward, None, None, x)
    if x.requires_grad and torch.is_grad_enabled():
        return _Product.apply(x, adjacency)
    with torch._C._AutoDispatchBelowAutograd():
        return _propagate(*adjacency._forward, *adjacency._backward, None, None, x)


class _Product(torch.autograd.Function):
    """adjacency @ x, as `propagate_csr` is; but torch.library takes 27 microseconds more forward and 16 backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return _multiply(adjacency, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _multiply(ctx.adjacency.t(), grads[0]), None


def _lasting(side: Csr) -> Csr:
    crow, col, value = side
    return lasting(crow), lasting(col), lasting(value)


def _axis(dim: int) -> int:
    if dim not in (-2, -1, 0, 1):
        raise IndexError(f"Adjacency: dim must be -2, -1, 0 or 1, got {dim}")
    return dim % 2
