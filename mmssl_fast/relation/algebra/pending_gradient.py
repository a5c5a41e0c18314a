"""The gradient of the weight of a first layer, stored as pieces and formed a few items at a time.

dL/dW of a linear layer on relation rows is low rank plus sparse (parts.py). dL/dW of the gradient penalty is a small
matrix times W (gradient_norm.py). For a million items and H = 512, the gradient as a matrix would take 2 GB, in
addition to 2 GB for W and 4 GB for Adam. An optimiser that processes it in tiles (nn.TiledAdam) never stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...ops.derivatives import is_transforming
from ...ops.spmm import spmm_add_
from ...precision import addmm_, work_dtype
from ...tiles import item_tiles
from .weight_columns import ItemEntries

Piece = Callable[[int, int, Tensor], object]  # (begin, end, out): adds rows begin to end of dWᵀ to out

_pending: dict[int, PendingGradient] = {}


class PendingGradient:
    """dL/dW [H, I] of a weight as a list of pieces. `tile` forms the gradient of some items, and `dense` all of it.

    `pending_gradient` creates it. The pieces of a gradient penalty read W. A tile of a piece reads the same tile of W
    only, so that an optimiser may change a tile of W as soon as it has formed this tile of the gradient.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._pieces: list[Piece] = []

    def __len__(self) -> int:
        """The number of pieces."""
        return len(self._pieces)

    @torch.no_grad()
    def tile(self, begin: int, end: int, out: Tensor | None = None) -> Tensor:
        """(dL/dW)ᵀ of the items [begin, end): contiguous [end − begin, H], written to `out` if it is given. It is
        float32 for a weight in float16 or bfloat16, otherwise it has the dtype of the weight."""
        if out is None:
            out = self.weight.new_empty(end - begin, self.weight.shape[0], dtype=work_dtype(self.weight.dtype))
        out.zero_()
        for piece in self._pieces:
            piece(begin, end, out)
        return out

    def dense(self) -> Tensor:
        """dL/dW [H, I] in the layout of the weight, and in the dtype of `tile`."""
        dense = torch.empty_like(self.weight, dtype=work_dtype(self.weight.dtype))
        item_major = dense.mT.is_contiguous()
        for begin, end in item_tiles(*self.weight.shape):
            tile = dense.mT[begin:end]
            if item_major:
                self.tile(begin, end, tile)
            else:
                tile.copy_(self.tile(begin, end))
        return dense

    def start(self, factors: Sequence[tuple[Tensor, Tensor]], gemm: torch.dtype) -> None:
        """Adds Σ v t to dWᵀ, with v [I, k] and t [k, H] rounded to gemm."""
        for v, t in factors:
            self._pieces.append(_product(v, t, gemm))

    def add_sparse(self, entries: ItemEntries, value: Tensor, y: Tensor) -> None:
        """Adds value[e] y[row(e)] to dWᵀ[col[e]] for every entry e; y is [B, H]."""
        items, t_crow, t_row, order = entries.by_item
        all_rows = torch.arange(entries.n_items + 1, device=items.device)
        crow, t_value = t_crow[torch.searchsorted(items, all_rows)], value[order]
        self._pieces.append(
            lambda begin, end, out: spmm_add_(out, all_rows[: end - begin], crow[begin : end + 1], t_row, t_value, y)
        )

    def add_product(self, s: Tensor, gemm: torch.dtype) -> None:
        """Adds Wᵀ s to dWᵀ, with s [H, H], both rounded to gemm."""
        weight = self.weight  # capturing self would be a reference cycle, which delays the release of all pieces
        self._pieces.append(lambda begin, end, out: addmm_(out, weight.mT[begin:end], s, gemm))

    def add_rows(self, x: Tensor, y: Tensor, gemm: torch.dtype | None = None) -> None:
        """Adds xᵀ y to dWᵀ, with x [b, I] and y [b, H], rounded to gemm if it is given."""
        self.add_tiles(lambda begin, end: x[:, begin:end], y, gemm)

    def add_tiles(self, tile: Callable[[int, int], Tensor], y: Tensor, gemm: torch.dtype | None = None) -> None:
        """Like add_rows, with x given by a function tile(begin, end) → [b, end − begin]."""
        self._pieces.append(lambda begin, end, out: addmm_(out, tile(begin, end).to(y.dtype).mT, y, gemm or y.dtype))


def _product(v: Tensor, t: Tensor, gemm: torch.dtype) -> Piece:
    return lambda begin, end, out: addmm_(out, v[begin:end], t, gemm)


@contextmanager
def pending_gradient(weight: Tensor) -> Iterator[PendingGradient]:
    """A context in which backward passes collect dL/dW of a weight in pieces and do not change ``weight.grad``.

    After one or more calls of ``loss.backward()`` in the context, ``pending.dense()`` equals the sum that they would
    have added to ``weight.grad``. This applies to linear layers on RelationRows and to `gradient_norm`. Gradients of
    any other use of the weight are added to ``weight.grad`` as usual.

    Args:
        weight: [H, I] float32, float64 or bfloat16, preferably item-major (``weight.mT`` contiguous).

    Raises:
        RuntimeError: the context is already active for this weight.

    Example:
        >>> rows = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8))
        >>> weight = torch.randn(4, 5, requires_grad=True)
        >>> with pending_gradient(weight) as pending:
        ...     rows.linear(weight).sum().backward()
        >>> weight.grad is None, torch.allclose(pending.dense(), rows.dense().sum(0).expand(4, 5), atol=1e-5)
        (True, True)
    """
    key = weight.data_ptr()
    if key in _pending:
        raise RuntimeError("pending_gradient: the context is already active for this weight")
    pending = _pending[key] = PendingGradient(weight.detach())
    try:
        yield pending
    finally:
        del _pending[key]


def pending_of(weight: Tensor) -> PendingGradient | None:
    """The active PendingGradient of this weight, or None."""
    return _pending.get(weight.data_ptr()) if _pending and not is_transforming() else None
