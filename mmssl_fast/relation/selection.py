"""The k largest entries of rows that come in tiles of items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE_ELEMENTS = 1 << 21


def top_of_tiles(tile: Callable[[int, int], Tensor], n_rows: int, n_items: int, k: int, device: torch.device) -> Tensor:
    """Items int64 [n_rows, k] of the k largest entries of every row, best first, equal ones by ascending item.

    tile(begin, end) gives entries [n_rows, end − begin]. Holds one tile and the best so far.
    """
    items = torch.empty(n_rows, 0, dtype=torch.int64, device=device)
    if k == 0 or n_rows == 0:
        return items.new_zeros(n_rows, k)
    best = None
    width = max(64, TILE_ELEMENTS // n_rows)
    for begin in range(0, n_items, width):
        end = min(begin + width, n_items)
        values = tile(begin, end)
        ids = torch.arange(begin, end, device=device).expand(n_rows, -1)
        best = values if best is None else torch.cat((best, values), 1)
        items = torch.cat((items, ids), 1)
        keep = _largest(best, min(k, best.shape[1]))  # both halves ascend in item, so position stands for item
        best, items = best.gather(1, keep), items.gather(1, keep)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    return items.gather(1, order)


def _largest(x: Tensor, k: int) -> Tensor:
    """Columns [rows, k], ascending, of the k largest entries; of equal ones the first columns."""
    if k == x.shape[1]:
        return torch.arange(k, device=x.device).expand(x.shape[0], -1)
    least = torch.topk(x, k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, level = x > least, x == least
    room = k - above.sum(1, keepdim=True)
    columns = (above | (level & (level.cumsum(1) <= room))).nonzero()[:, 1]
    if columns.numel() != x.shape[0] * k:
        raise ValueError("topk: a row holds NaN")
    return columns.view(x.shape[0], k)
