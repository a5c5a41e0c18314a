"""The layer loop of LightGCN-type models, ``x = A @ x``, and the mean over all layers in one call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

from ..modes import outside_modes
from ..ops.propagate import lightgcn_csr
from .sparse.adjacency import Adjacency
from .sparse.decide import mm, obstacle, prepared

_Sides = tuple[Tensor, ...]  # crow, col, value of R and of its transpose
_blocks: weakref.WeakKeyDictionary[Adjacency, tuple[int, _Sides | None]] = weakref.WeakKeyDictionary()


@overload
def lightgcn_layers(adjacency: Tensor | Adjacency, embeddings: Tensor, n_layers: int) -> Tensor: ...
@overload
def lightgcn_layers(
    adjacency: Tensor | Adjacency, embeddings: tuple[Tensor, Tensor], n_layers: int
) -> tuple[Tensor, Tensor]: ...
def lightgcn_layers(
    adjacency: Tensor | Adjacency, embeddings: Tensor | tuple[Tensor, Tensor], n_layers: int
) -> Tensor | tuple[Tensor, Tensor]:
    """Equals ``torch.stack([x, A @ x, A @ (A @ x), ...], dim=1).mean(dim=1)``, without the stack.

    This is the propagation of LightGCN (He et al., SIGIR 2020, Eq. 7 with α_k = 1 / (K + 1)) and of models based on it.
    Memory does not grow with the number of layers, because autograd stores no layer. If users and items are given as a
    pair, and the adjacency has the usual symmetric form ``[[0, R], [Rᵀ, 0]]``, all layers are one op, which reads R.

        users, items = lightgcn_layers(self.norm_adj, (self.user_embedding.weight, self.item_embedding.weight), 3)

    Args:
        adjacency: A [N, N], a sparse COO, CSR or CSC tensor without gradient, or an `Adjacency`. A tensor is prepared
            at its first use, as in `sparse.mm`.
        embeddings: x [N, d], or a pair (users [U, d], items [N - U, d]) for ``x = torch.cat(pair)``.
        n_layers: L ≥ 0.

    Returns:
        [N, d], or a pair, ``result.split((U, N - U))``. Differentiable in the embeddings any number of times.

    Raises:
        ValueError: n_layers is negative, or the adjacency is not square or has another number of rows.

    Example:
        >>> import torch
        >>> adjacency = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).to_sparse()
        >>> lightgcn_layers(adjacency, torch.tensor([[1.0], [3.0]]), 1)
        tensor([[2.],
                [2.]])
    """
    if n_layers < 0:
        raise ValueError(f"lightgcn_layers: n_layers must not be negative, got {n_layers}")
    pair = embeddings if isinstance(embeddings, tuple) else None
    sides = embeddings if isinstance(embeddings, tuple) else (embeddings,)
    rows = sum(len(x) for x in sides)
    if tuple(adjacency.shape) != (rows, rows):
        raise ValueError(f"lightgcn_layers: adjacency is {tuple(adjacency.shape)}, the embeddings have {rows} rows")
    multiply = _product(adjacency, sides[0])
    if pair and isinstance(multiply, Adjacency) and (block := _block(multiply, len(pair[0]))) is not None:
        return lightgcn_csr(*block, None, None, None, None, *(x.contiguous() for x in pair), n_layers)
    x = torch.cat(sides) if pair else sides[0]
    product: Callable[[Tensor], Tensor] = multiply.mm if isinstance(multiply, Adjacency) else multiply
    y = x
    for _ in range(n_layers):  # Horner's scheme: (x + A (x + A (x + ...))) / (L + 1)
        y = x + product(y)
    y = y / (n_layers + 1)
    return y.split([len(side) for side in pair]) if pair else y


def _product(adjacency: Tensor | Adjacency, x: Tensor) -> Adjacency | Callable[[Tensor], Tensor]:
    """The Adjacency, prepared once for all layers, or a function if torch must compute the products."""
    if isinstance(adjacency, Adjacency):
        return adjacency
    like = x if len(x) == adjacency.shape[1] else x.new_empty(1, 1).expand(adjacency.shape[1], 1)
    if obstacle(adjacency, like) is None:
        return prepared(adjacency)
    return lambda y: mm(adjacency, y)


def _block(adjacency: Adjacency, n_users: int) -> _Sides | None:
    """R of a matrix [[0, R], [Rᵀ, 0]] in the form of the op, or None for any other matrix. It is searched once."""
    known = _blocks.get(adjacency)
    if known is None or known[0] != n_users:
        with outside_modes():  # what is made in inference mode could not be saved for a gradient later
            known = _blocks[adjacency] = n_users, _find_block(adjacency, n_users)
    return known[1]


def _find_block(adjacency: Adjacency, n_users: int) -> _Sides | None:
    crow, col, value = adjacency._forward
    if not all(torch.equal(x, y) for x, y in zip(adjacency._forward, adjacency._backward, strict=True)):
        return None
    middle = int(crow[n_users])
    if bool((col[:middle] < n_users).any()) or bool((col[middle:] >= n_users).any()):
        return None
    by_user = crow[: n_users + 1].contiguous(), (col[:middle] - n_users).contiguous(), value[:middle].contiguous()
    by_item = (crow[n_users:] - middle).contiguous(), col[middle:].contiguous(), value[middle:].contiguous()
    return *by_user, *by_item
