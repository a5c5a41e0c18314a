"""Masking of seen items in a tile, by iterating over their CSR block. No mask is formed.

The items of a row must be ascending, as in `InteractionGraph`. Entries of `col` beyond crow[-1] are never read.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_seen(crow_ptr, col_ptr, row, live, item):
    """For every row, the position of its first entry with a column of at least `item`, and the end of its entries.

    It is a binary search in all rows at once.
    """
    low = tl.load(crow_ptr + row, live, 0)
    end = tl.load(crow_ptr + row + 1, live, 0)
    high = end
    while tl.max(high - low, 0) > 0:
        within = low < high
        middle = (low + high) // 2
        before = tl.load(col_ptr + middle, within, 0) < item
        low = tl.where(within & before, middle + 1, low)
        high = tl.where(within & (before == 0), middle, high)
    return low, end


@triton.jit
def _ahead(col_ptr, place, end, first, WIDTH: tl.constexpr):
    """The distance of each row's entry at `place` from item `first`, at most WIDTH, and WIDTH if no entry is left."""
    left = place < end
    away = tl.load(col_ptr + place, left, 0).to(tl.int64) - first
    return tl.where(left, tl.minimum(away, WIDTH), WIDTH).to(tl.int32)


@triton.jit
def hide_seen(s, value, first, place, end, col_ptr):
    """s [rows, WIDTH], a tile that starts at item `first`, with `value` at the seen entries, and the position of each
    row's first entry behind the tile.

    place: the position of each row's first entry with a column of at least `first`. end: the end of its entries.
    """
    WIDTH: tl.constexpr = s.shape[1]
    offset = tl.arange(0, WIDTH)
    ahead = _ahead(col_ptr, place, end, first, WIDTH)
    while tl.min(ahead, 0) < WIDTH:
        s = tl.where(offset[None, :] == ahead[:, None], value, s)
        place += (ahead < WIDTH).to(tl.int64)
        ahead = _ahead(col_ptr, place, end, first, WIDTH)
    return s, place
