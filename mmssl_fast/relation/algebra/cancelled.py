"""Cancelled rows: rows of u vᵀ whose seen items account for nearly all of their length, so that subtracting the seen
items loses all digits.

These rows are formed densely instead. They are few: the features of all unseen items must be nearly orthogonal to those
of the user. They are formed block by block, so that memory stays bounded even if every row cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CANCELLED_SHARE = 1e-3  # a row with a smaller unseen share of its squared norm is formed densely
BLOCK_ELEMENTS = 1 << 22


class CancelledBlock(NamedTuple):
    """Some of the cancelled rows.

    rows: int64 [b], their numbers. local, items: int64 [nnz], their seen entries as (index into `rows`, item) pairs.
    """

    rows: Tensor
    local: Tensor
    items: Tensor

    def mask_(self, x: Tensor) -> Tensor:
        """Sets the seen entries of x [b, I] to 0, in place."""
        return x.index_put_((self.local, self.items), x.new_zeros(()))


def cancelled_blocks(seen: tuple[Tensor, Tensor], cancelled: Tensor, n_items: int) -> Iterator[CancelledBlock]:
    """The rows for which cancelled [B] is true, in blocks of at most BLOCK_ELEMENTS entries."""
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
    """The rows that are not computed as low rank minus sparse, bool [B], or None if there are none. They are the
    cancelled rows, which are formed densely, and the rows whose items are all seen, which are exactly zero."""
    if seen is None:
        return None
    excluded = seen[0].diff() >= n_items
    if cancelled is not None:
        excluded = excluded | cancelled
    return excluded if bool(excluded.any()) else None


def zero_rows(x: Tensor, excluded: Tensor | None) -> Tensor:
    """x [B, ...] with the excluded rows set to zero, or x itself if there are none."""
    return x if excluded is None else x.masked_fill(excluded.view(-1, *[1] * (x.ndim - 1)), 0)
