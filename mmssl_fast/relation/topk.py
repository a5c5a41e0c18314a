"""The k largest entries of rows that come in tiles of items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.cosine_topk import cosine_topk
from ..tiles import item_tiles, tile_elements
from .components import Generated

FUSED_K = 128
TILE_ELEMENTS = 1 << 19  # smaller than elsewhere: the selection makes several temporaries of a tile's size


def top_of_block(block, k: int) -> Tensor:
    """Items int64 [n_rows, k] of the k largest entries of every row of a block, best first, equal ones by item."""
    scale, component = block.terms[0]
    positive = bool((scale > 0).all()) if isinstance(scale, Tensor) else scale > 0
    if len(block.terms) == 1 and isinstance(component, Generated) and positive and k <= FUSED_K:
        return _top_of_generated(component, k)
    return top_of_tiles(block.tile, block.n_rows, component.n_items, k, component.device)


def _top_of_generated(rows: Generated, k: int) -> Tensor:
    """The same by cosine_topk, which leaves seen items out: they are all at 0, so the first k of a row are added."""
    values, items = cosine_topk(rows.u, rows.v, k, rows.seen, "dot")
    if rows.seen is not None and k:
        crow, col = rows.seen
        counts = crow.diff().clamp(max=k)[:, None]
        place = torch.arange(int(counts.max()) if counts.numel() else 0, device=col.device)
        entry = (crow[:-1, None] + place).clamp(max=max(0, col.numel() - 1))
        inside = place < counts
        at_zero = torch.where(inside, values.new_zeros(()), -torch.inf)
        values = torch.cat((values, at_zero), 1)
        items = torch.cat((items, torch.where(inside, col[entry].long() if col.numel() else entry, -1)), 1)
        by_item = torch.sort(items, dim=1).indices
        order = torch.sort(values.gather(1, by_item), dim=1, descending=True, stable=True).indices[:, :k]
        items = items.gather(1, by_item).gather(1, order)
    if bool((items < 0).any()):
        raise ValueError("topk: a row holds NaN")
    return items


def top_of_tiles(tile: Callable[[int, int], Tensor], n_rows: int, n_items: int, k: int, device: torch.device) -> Tensor:
    """Items int64 [n_rows, k] of the k largest entries of every row, best first, equal ones by ascending item.

    tile(begin, end) gives entries [n_rows, end − begin]. Holds one tile and the best so far.
    """
    items = torch.empty(n_rows, 0, dtype=torch.int64, device=device)
    if k == 0 or n_rows == 0:
        return items.new_zeros(n_rows, k)
    best = None
    for begin, end in item_tiles(n_rows, n_items, min(TILE_ELEMENTS, tile_elements())):
        values = tile(begin, end)
        values = values if best is None else torch.cat((best, values), 1)
        held = items.shape[1]  # the first columns are the best so far: ascending in item, and below those of the tile
        keep = _largest(values, min(k, values.shape[1]))
        fresh = keep + (begin - held)
        items = torch.where(keep < held, items.gather(1, keep.clamp(max=held - 1)), fresh) if held else fresh
        best = values.gather(1, keep)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    return items.gather(1, order)


def _largest(x: Tensor, k: int) -> Tensor:
    """Columns [rows, k], ascending, of the k largest entries; of equal ones the first columns."""
    if k == x.shape[1]:
        return torch.arange(k, device=x.device).expand(x.shape[0], -1)
    least = torch.topk(x, k, dim=1, sorted=False).values.amin(1, keepdim=True)
    chosen = x >= least
    if int(torch.count_nonzero(chosen)) != x.shape[0] * k:
        chosen = _first_of_equals(x, least, chosen, k)
    columns = chosen.nonzero()[:, 1]
    if columns.numel() != x.shape[0] * k:
        raise ValueError("topk: a row holds NaN")
    return columns.view(x.shape[0], k)


def _first_of_equals(x: Tensor, least: Tensor, chosen: Tensor, k: int) -> Tensor:
    """`chosen` where rows with more than k entries, several equal to the least, keep the first of those."""
    tied = (torch.count_nonzero(chosen, dim=1) > k).nonzero().flatten()
    above, level = x[tied] > least[tied], x[tied] == least[tied]
    room = k - torch.count_nonzero(above, dim=1)[:, None]
    chosen[tied] = above | (level & (level.cumsum(1) <= room))
    return chosen
