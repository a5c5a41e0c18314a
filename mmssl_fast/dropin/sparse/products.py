"""The ways in which torch multiplies a sparse and a dense matrix, read into one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_NO_MATRIX = "a second factor that is no dense matrix or vector"


class Multiplier(Protocol):
    """A matrix that can be multiplied from either side; an Adjacency."""

    def mm(self, x: Tensor) -> Tensor: ...
    def t(self) -> Multiplier: ...


@dataclass(eq=False)
class Product:
    """``beta * bias + alpha * (A @ x)`` with A the matrix, its transpose, or the transpose of the whole product.

    matrix: the sparse factor. x: the dense one, as it stands in the call.
    transpose: whether A is the transpose of `matrix`.
    from_right: whether the call multiplies x by the matrix from the right; A and x are then both transposed, and so is
        the result.
    """

    matrix: Any
    x: Any
    transpose: bool = False
    from_right: bool = False
    bias: Tensor | None = None
    beta: float = 1
    alpha: float = 1

    @property
    def factor(self) -> Tensor:
        """The dense factor as a matrix with a row for each column of A."""
        x = self.x
        if x.ndim == 1:
            return x[:, None]
        return x.t() if self.from_right else x

    def of(self, adjacency: Multiplier) -> Tensor:
        """The product, with `adjacency` in the place of the matrix."""
        y = (adjacency.t() if self.transpose else adjacency).mm(self.factor)
        if self.x.ndim == 1:
            y = y[:, 0]
        elif self.from_right:
            y = y.t() if getattr(self.matrix, "layout", None) == torch.sparse_coo else y.t().contiguous()
        if self.alpha != 1:
            y = y * self.alpha
        if self.bias is not None:
            y = y + (self.bias if self.beta == 1 else self.bias * self.beta)
        return y


def read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Product | str | None:
    """The product that a call of `func` is; the reason why it is left to torch; None if it has no sparse factor."""
    reader = READERS.get(func)
    if reader is None or not any(map(_has_sparse, (*args, *kwargs.values()))):
        return None
    if isinstance(reader, str):
        return f"{reader} with a sparse factor"
    if kwargs.get("out") is not None:
        return "out="
    try:
        return reader(*args, **kwargs)
    except TypeError:  # torch has a sentence for wrong arguments
        return "an option of the product"


def is_sparse(x: Any) -> bool:
    return getattr(x, "is_adjacency", False) or (isinstance(x, Tensor) and x.layout != torch.strided)


def _has_sparse(x: Any) -> bool:
    return any(map(is_sparse, x)) if isinstance(x, list | tuple) else is_sparse(x)


def _pair(left: Any, right: Any) -> Product | str:
    if is_sparse(left) and is_sparse(right):
        return "a product of two sparse matrices"
    if is_sparse(left):
        return Product(left, right)
    return Product(right, left, transpose=True, from_right=True)


def _mm(input: Any, mat2: Any, *, out: None = None) -> Product | str:
    product = _pair(input, mat2)
    if not isinstance(product, str) and getattr(product.x, "ndim", 2) != 2:
        return _NO_MATRIX
    return product


def _sparse_mm(sparse: Any, dense: Any) -> Product | str:
    return _mm(sparse, dense)


def _matmul(input: Any, other: Any, *, out: None = None) -> Product | str:
    return _pair(input, other)


def _rmatmul(self: Any, other: Any) -> Product | str:
    return _pair(other, self)


def _mv(input: Any, vec: Any, *, out: None = None) -> Product | str:
    if not is_sparse(input) or getattr(vec, "ndim", 1) != 1:
        return _NO_MATRIX
    return _pair(input, vec)


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1, out: None = None) -> Product | str:
    if not isinstance(beta, int | float) or not isinstance(alpha, int | float) or beta == 0:
        return "an option of the product"
    product = _pair(mat1, mat2)
    if isinstance(product, str):
        return product
    if not isinstance(product.x, Tensor) or not _can_add(input, product):
        return "an addend of another dtype, device, layout or shape"
    product.bias, product.beta, product.alpha = input, beta, alpha
    return product


def _linear(input: Any, weight: Any, bias: Any = None) -> Product | str:
    if is_sparse(input) and is_sparse(weight):
        return "a product of two sparse matrices"
    if is_sparse(input):
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            return _NO_MATRIX
        product = Product(input, weight.t())
    else:
        product = Product(weight, input, from_right=True)
    if bias is not None:
        if not isinstance(product.x, Tensor) or not _can_add(bias, product):
            return "an addend of another dtype, device, layout or shape"
        product.bias = bias
    return product


def _can_add(bias: Any, product: Product) -> bool:
    """Whether torch adds `bias` to this product."""
    x, matrix = product.x, product.matrix
    if not isinstance(bias, Tensor) or bias.layout != torch.strided or x.ndim != 2:
        return False
    if product.from_right and getattr(matrix, "layout", None) == torch.sparse_coo:
        return False  # torch raises
    rows = matrix.shape[1 if product.transpose else 0]
    shape = (x.shape[0], rows) if product.from_right else (rows, x.shape[1])
    fits = bias.ndim <= 2 and all(b in (1, n) for b, n in zip(reversed(bias.shape), reversed(shape), strict=False))
    return fits and bias.dtype == x.dtype and bias.device == x.device


# The functions of torch that can multiply a sparse matrix: how to read a call, or, for those that are always left to
# torch, their name.
READERS: dict[Any, Callable[..., Product | str] | str] = {
    torch.mm: _mm,
    Tensor.mm: _mm,
    torch.sparse.mm: _sparse_mm,
    torch.matmul: _matmul,
    torch.linalg.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.__rmatmul__: _rmatmul,
    torch.mv: _mv,
    Tensor.mv: _mv,
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    torch.sparse.addmm: _addmm,
    F.linear: _linear,
    torch.bmm: "torch.bmm",
    Tensor.bmm: "torch.bmm",
    torch.addmv: "torch.addmv",
    Tensor.addmv: "torch.addmv",
    Tensor.addmv_: "Tensor.addmv_",
    Tensor.addmm_: "Tensor.addmm_",
    torch.hspmm: "torch.hspmm",
    torch.smm: "torch.smm",
    Tensor.smm: "torch.smm",
    torch.sspaddmm: "torch.sspaddmm",
    Tensor.sspaddmm: "torch.sspaddmm",
    torch.linalg.multi_dot: "torch.linalg.multi_dot",
    torch.chain_matmul: "torch.chain_matmul",
    torch.sparse.sampled_addmm: "torch.sparse.sampled_addmm",
}

# Those that are `left @ right` and nothing else when they are called with two matrices.
PLAIN = frozenset(func for func, reader in READERS.items() if reader in (_mm, _sparse_mm, _matmul))
