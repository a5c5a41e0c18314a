"""The k largest entries of rows that come in tiles of items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.cosine_topk import cosine_topk
from ..tiles import item_tiles, tile_elements
from .components import Generated

WHOLE_ROWS_K = 128  # beyond, whole rows are selected from, a few at a time: the best so far no longer fit beside a tile
TILE_ELEMENTS = 1 << 19  # smaller than elsewhere: the selection makes several temporaries of a tile's size
MERGE_ELEMENTS = 1 << 17  # list entries merged with seen items at a time: their temporaries stay in cache


def topk_of_block(block, k: int) -> tuple[Tensor, Tensor]:
    """Values [n_rows, k] and items int64 [n_rows, k] of the k largest entries of every row of a block, best first,
    equal ones by item. The values carry gradients where the block does."""
    scale, component = block.terms[0]
    with torch.no_grad():
        positive = bool((scale > 0).all()) if isinstance(scale, Tensor) else scale > 0
        if len(block.terms) == 1 and isinstance(component, Generated) and positive:
            values, items = _topk_of_generated(component, k)
            values = values * scale[:, None] if isinstance(scale, Tensor) else values if scale == 1 else values * scale
        elif k > WHOLE_ROWS_K:
            values, items = _topk_of_whole_rows(block, component.n_items, k)
        else:
            values, items = _topk_of_tiles(block.tile, block.n_rows, component.n_items, k, component.device)
    if torch.is_grad_enabled() and block.requires_grad:
        values = block.gather(items)
    return values, items


def _topk_of_generated(rows: Generated, k: int) -> tuple[Tensor, Tensor]:
    """By cosine_topk, which leaves seen items out: they are all at 0 and are merged in."""
    values, items = cosine_topk(rows.u, rows.v, k, rows.seen, "dot")
    if rows.seen is not None and k:
        for part in torch.arange(rows.n_rows, device=items.device).split(max(1, MERGE_ELEMENTS // k)):
            inside = slice(int(part[0]), int(part[-1]) + 1)
            _merge_seen(values[inside], items[inside], rows.seen.crow[inside.start : inside.stop + 1], rows.seen.col)
    if bool((items < 0).any()):
        raise ValueError("topk: a row holds NaN")
    return values, items


def _merge_seen(values: Tensor, items: Tensor, crow: Tensor, col: Tensor) -> None:
    """Merges each row's seen items, of value 0, into its list [b, k], in place; the lists' ends drop off."""
    k = items.shape[1]
    counts, above = crow.diff()[:, None], (values > 0).sum(1, keepdim=True)
    row = torch.repeat_interleave(torch.arange(items.shape[0], device=items.device), crow.diff())
    if row.numel() == 0:
        return
    entry = torch.arange(row.numel(), device=items.device)
    place = entry - (crow[:-1] - crow[0])[row] + above[row, 0]
    entry, row, place = (x[place < k] for x in (entry + crow[0], row, place))
    tied = ((values == 0).any(1) & (counts[:, 0] > 0)).nonzero().flatten()
    before = values[tied], items[tied]

    target = torch.arange(k, device=items.device)
    source = target - counts * (target >= above + counts)
    values.copy_(values.gather(1, source))
    items.copy_(items.gather(1, source))
    values[row, place] = 0
    items[row, place] = col[entry].long()
    for at, *best in zip(tied.tolist(), *before, strict=True):
        # Unseen items at 0 too: they and the seen ones are ordered by item.
        seen = col[crow[at] : crow[at + 1]].long()
        both, value = torch.cat((best[1], seen)), torch.cat((best[0], best[0].new_zeros(seen.shape)))
        by_item = torch.sort(both).indices
        order = by_item[torch.sort(value[by_item], descending=True, stable=True).indices[:k]]
        values[at], items[at] = value[order], both[order]


def _topk_of_whole_rows(block, n_items: int, k: int) -> tuple[Tensor, Tensor]:
    """By torch.topk of a few rows at a time. Which of equal entries it takes, and their order, is not defined: rows
    with any are selected from again."""
    rows_at_once = max(1, min(TILE_ELEMENTS, tile_elements()) // max(1, n_items))
    chunks = []
    for rows in torch.arange(block.n_rows, device=block.terms[0][1].device).split(rows_at_once):
        x = block.select(rows).tile(0, n_items)
        values, items = torch.topk(x, min(k + 1, n_items), dim=1)
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().flatten()
        if bool(values.isnan().any()):
            raise ValueError("topk: a row holds NaN")
        values, items = values[:, :k], items[:, :k]
        if tied.numel():
            values[tied], items[tied] = _in_order(x[tied], _largest(x[tied], k))
        chunks.append((values, items))
    values, items = zip(*chunks, strict=True)
    return torch.cat(values), torch.cat(items)


def _in_order(x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of x [rows, n] at ascending columns [rows, k], largest first, equal ones by column."""
    values, order = torch.sort(x.gather(1, columns), dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _topk_of_tiles(
    tile: Callable[[int, int], Tensor], n_rows: int, n_items: int, k: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Values and items int64 [n_rows, k] of the k largest entries of every row, best first, equal ones by item.

    tile(begin, end) gives entries [n_rows, end − begin]. Holds one tile and the best so far.
    """
    items = torch.empty(n_rows, 0, dtype=torch.int64, device=device)
    if k == 0 or n_rows == 0:
        return tile(0, 0).new_zeros(n_rows, k), items.new_zeros(n_rows, k)
    best = None
    for begin, end in item_tiles(n_rows, n_items, min(TILE_ELEMENTS, tile_elements())):
        values = tile(begin, end)
        values = values if best is None else torch.cat((best, values), 1)
        # The first columns are the best of earlier tiles: ascending in item, and all below the items of this tile.
        n_best = items.shape[1]
        keep = _largest(values, min(k, values.shape[1]))
        fresh = keep + (begin - n_best)
        items = torch.where(keep < n_best, items.gather(1, keep.clamp(max=n_best - 1)), fresh) if n_best else fresh
        best = values.gather(1, keep)
    best, order = torch.sort(best, dim=1, descending=True, stable=True)
    return best, items.gather(1, order)


def _largest(x: Tensor, k: int) -> Tensor:
    """Columns [rows, k], ascending, of the k largest entries; ties go to the lower column."""
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
    """`chosen` with exactly k entries a row: of the entries equal to the least one, only the first ones stay."""
    tied = (torch.count_nonzero(chosen, dim=1) > k).nonzero().flatten()
    above, level = x[tied] > least[tied], x[tied] == least[tied]
    room = k - torch.count_nonzero(above, dim=1)[:, None]
    chosen[tied] = above | (level & (level.cumsum(1) <= room))
    return chosen
