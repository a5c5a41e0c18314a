"""The gradient of a first layer's weight as the pieces it is made of, formed a few items at a time.

dW of a Linear on relation rows is low rank plus sparse columns, and of the gradient penalty a small matrix times W
(parts, gradient_norm). At a million items and H = 512 it would be 2 GB beside W's 2 GB and Adam's 4; an
optimiser that takes it in tiles never holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...ops.derivatives import is_transforming
from ...ops.spmm import spmm_add_
from ...precision import addmm_
from ...tiles import item_tiles
from .weight_columns import ItemEntries

Piece = Callable[[int, int, Tensor], None]  # (begin, end, out): out [end − begin, H] += the items' share of dWᵀ

_pending: dict[int, PendingGradient] = {}


class PendingGradient:
    """dL/dW [H, I] of a weight as a list of pieces: `tile` forms the gradient of some items, `dense` all of it.

    Made by `pending_gradient`. The pieces of a penalty read W itself. A tile of a piece reads only the same tile of W,
    so an optimiser may write a tile of W as soon as it has formed that tile of the gradient.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._pieces: list[Piece] = []

    def __len__(self) -> int:
        """The number of pieces."""
        return len(self._pieces)

    @torch.no_grad()
    def tile(self, begin: int, end: int, out: Tensor | None = None) -> Tensor:
        """(dL/dW)ᵀ of the items [begin, end): [end − begin, H], contiguous; in `out` where it is given."""
        out = self.weight.new_empty(end - begin, self.weight.shape[0]) if out is None else out
        out.zero_()
        for piece in self._pieces:
            piece(begin, end, out)
        return out

    def dense(self) -> Tensor:
        """dL/dW [H, I], in the weight's layout; the only other memory is a tile."""
        dense = torch.empty_like(self.weight)
        item_major = dense.mT.is_contiguous()
        for begin, end in item_tiles(*self.weight.shape):
            tile = dense.mT[begin:end]
            if item_major:
                self.tile(begin, end, tile)
            else:
                tile.copy_(self.tile(begin, end))
        return dense

    def start(self, factors: Sequence[tuple[Tensor, Tensor]], gemm: torch.dtype) -> None:
        """dWᵀ += Σ v t, with v [I, k] and t [k, H], rounded to gemm."""
        for v, t in factors:
            self._pieces.append(lambda begin, end, out, v=v, t=t: addmm_(out, v[begin:end], t, gemm))

    def add_sparse(self, entries: ItemEntries, value: Tensor, y: Tensor) -> None:
        """dWᵀ[col[e]] += value[e] y[row(e)] for every entry; y [B, H]."""
        items, t_crow, t_row, order = entries.by_item
        every = torch.arange(entries.n_items + 1, device=items.device)
        crow, t_value = t_crow[torch.searchsorted(items, every)], value[order]
        self._pieces.append(
            lambda begin, end, out: spmm_add_(out, every[: end - begin], crow[begin : end + 1], t_row, t_value, y)
        )

    def add_product(self, s: Tensor, gemm: torch.dtype) -> None:
        """dWᵀ += Wᵀ s, with s [H, H], both rounded to gemm."""
        weight = self.weight  # not self, whose reference cycle would keep every piece until Python's collector runs
        self._pieces.append(lambda begin, end, out: addmm_(out, weight.mT[begin:end], s, gemm))

    def add_rows(self, x: Tensor, y: Tensor, gemm: torch.dtype | None = None) -> None:
        """dWᵀ += xᵀ y, with x [b, I] and y [b, H]; rounded to gemm where it is given."""
        self.add_tiles(lambda begin, end: x[:, begin:end], y, gemm)

    def add_tiles(self, tile: Callable[[int, int], Tensor], y: Tensor, gemm: torch.dtype | None = None) -> None:
        """As add_rows, x given in tiles: tile(begin, end) → [b, end − begin]."""
        self._pieces.append(lambda begin, end, out: addmm_(out, tile(begin, end).to(y.dtype).mT, y, gemm or y.dtype))


@contextmanager
def pending_gradient(weight: Tensor) -> Iterator[PendingGradient]:
    """Inside, a backward pass leaves dL/dW of this weight in pieces and ``weight.grad`` as it is.

    Equals, around one or more ``loss.backward()``, what they add to ``weight.grad``: ``pending.dense()``. For the
    weight of relation_linear on RelationRows and of gradient_norm; a gradient that reaches the weight in any other way
    goes to ``weight.grad`` as ever.

    weight: [H, I] float32 or float64, best item-major (``weight.mT`` contiguous).
    """
    key = weight.data_ptr()
    if key in _pending:
        raise RuntimeError("pending_gradient: this weight's gradient is pending already")
    pending = _pending[key] = PendingGradient(weight.detach())
    try:
        yield pending
    finally:
        del _pending[key]


def pending_of(weight: Tensor) -> PendingGradient | None:
    """The PendingGradient that a backward pass is to fill for this weight, if there is one."""
    return _pending.get(weight.data_ptr()) if _pending and not is_transforming() else None
