"""Rows whose seen items carry nearly all of u vᵀ: what is left after the subtraction has no digits, so they are formed.

Such rows are few (a user whose unseen items are all nearly orthogonal to it). They are formed a block at a time, so
memory stays bounded even if all are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CARRIED_SHARE = 1e-3  # of the squared norm: below it a row is formed densely (a thirtieth of the length)
BLOCK_ELEMENTS = 1 << 22


class CarriedBlock(NamedTuple):
    """Some of the carried rows: rows int64 [b], and the seen entries among them as pairs (local row, item)."""

    rows: Tensor
    local: Tensor
    items: Tensor

    def mask_(self, x: Tensor) -> Tensor:
        """x [b, I] with the seen entries set to 0, in place."""
        return x.index_put_((self.local, self.items), x.new_zeros(()))


def carried_blocks(seen: tuple[Tensor, Tensor], carried: Tensor, n_items: int) -> Iterator[CarriedBlock]:
    """The rows where carried [B] is true, in blocks of at most BLOCK_ELEMENTS entries."""
    crow, col = seen
    for rows in carried.nonzero().flatten().split(max(1, BLOCK_ELEMENTS // max(1, n_items))):
        if rows.numel() == 0:
            return
        counts = crow[rows + 1] - crow[rows]
        ends = counts.cumsum(0)
        entry = torch.arange(int(ends[-1]), device=col.device)
        entry += torch.repeat_interleave(crow[rows] - (ends - counts), counts)
        local = torch.repeat_interleave(torch.arange(rows.numel(), device=col.device), counts)
        yield CarriedBlock(rows, local, col[entry].long())


def formed_apart(seen: tuple[Tensor, Tensor] | None, carried: Tensor | None, n_items: int) -> Tensor | None:
    """bool [B]: the rows that low rank minus sparse leaves out, or None for none. Carried ones, which carried_blocks
    forms, and those whose every item is seen, which are exactly zero."""
    if seen is None:
        return None
    apart = seen[0].diff() >= n_items
    if carried is not None:
        apart = apart | carried
    return apart if bool(apart.any()) else None


def without(x: Tensor, apart: Tensor | None) -> Tensor:
    """x [B, ...] with the rows formed apart zero; x itself when there are none."""
    return x if apart is None else x.masked_fill(apart.view(-1, *[1] * (x.ndim - 1)), 0)
