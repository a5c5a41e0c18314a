"""Rows of u vᵀ that cancel: their seen items make up nearly all of the row, and subtracting them leaves no digits.

Such rows are formed densely instead. They are few (users whose unseen items are all nearly orthogonal to them), and
they are formed a block at a time, so that memory stays bounded even if every row cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CANCELLED_SHARE = 1e-3  # of the squared norm: below it a row is formed densely (a thirtieth of the length)
BLOCK_ELEMENTS = 1 << 22


class CancelledBlock(NamedTuple):
    """Some of the cancelled rows: rows int64 [b], and the seen entries among them as pairs (local row, item)."""

    rows: Tensor
    local: Tensor
    items: Tensor

    def mask_(self, x: Tensor) -> Tensor:
        """x [b, I] with the seen entries set to 0, in place."""
        return x.index_put_((self.local, self.items), x.new_zeros(()))


def cancelled_blocks(seen: tuple[Tensor, Tensor], cancelled: Tensor, n_items: int) -> Iterator[CancelledBlock]:
    """The rows where cancelled [B] is true, in blocks of at most BLOCK_ELEMENTS entries."""
    crow, col = seen
    for rows in cancelled.nonzero().flatten().split(max(1, BLOCK_ELEMENTS // max(1, n_items))):
        if rows.numel() == 0:
            return
        counts = crow[rows + 1] - crow[rows]
        ends = counts.cumsum(0)
        entry = torch.arange(int(ends[-1]), device=col.device)
        entry += torch.repeat_interleave(crow[rows] - (ends - counts), counts)
        local = torch.repeat_interleave(torch.arange(rows.numel(), device=col.device), counts)
        yield CancelledBlock(rows, local, col[entry].long())


def excluded_rows(seen: tuple[Tensor, Tensor] | None, cancelled: Tensor | None, n_items: int) -> Tensor | None:
    """bool [B]: the rows that are not computed as low rank minus sparse, or None for none: those that cancel, which
    cancelled_blocks forms, and those whose every item is seen, which are exactly zero."""
    if seen is None:
        return None
    excluded = seen[0].diff() >= n_items
    if cancelled is not None:
        excluded = excluded | cancelled
    return excluded if bool(excluded.any()) else None


def zero_rows(x: Tensor, excluded: Tensor | None) -> Tensor:
    """x [B, ...] with the excluded rows set to zero; x itself when there are none."""
    return x if excluded is None else x.masked_fill(excluded.view(-1, *[1] * (x.ndim - 1)), 0)
