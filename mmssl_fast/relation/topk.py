"""The k largest entries of every row, computed in tiles of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.cosine_topk import cosine_topk
from ..tiles import item_tiles, tile_elements
from .blocks import Block
from .components import Generated

WHOLE_ROWS_K = 128  # for a larger k, whole rows are formed, because the best entries so far would exceed a tile
TILE_ELEMENTS = 1 << 19  # smaller than in tiles.py, because the selection needs several temporaries per tile
MERGE_ELEMENTS = 1 << 17  # list entries that are merged with seen items at a time, so that temporaries stay in cache


def topk_of_block(block: Block, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of every row of a block: values [n_rows, k] and items int64 [n_rows, k], best first, equal
    values ordered by item. If the block requires grad, the values are differentiable."""
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
    """By cosine_topk, which excludes the seen items. They have value 0 and are merged into its result."""
    values, items = cosine_topk(rows.u, rows.v, k, rows.seen, "dot")
    if rows.seen is not None and k:
        for part in torch.arange(rows.n_rows, device=items.device).split(max(1, MERGE_ELEMENTS // k)):
            inside = slice(int(part[0]), int(part[-1]) + 1)
            _merge_seen(values[inside], items[inside], rows.seen.crow[inside.start : inside.stop + 1], rows.seen.col)
    if bool((items < 0).any()):
        raise ValueError("topk: a row contains NaN")
    return values, items


def _merge_seen(values: Tensor, items: Tensor, crow: Tensor, col: Tensor) -> None:
    """Merges the seen items of each row, whose value is 0, into its sorted list [b, k], in place. The lists keep length
    k, so their last entries are dropped."""
    k = items.shape[1]
    counts, above = crow.diff()[:, None], (values > 0).sum(1, keepdim=True)
    row = torch.repeat_interleave(torch.arange(items.shape[0], device=items.device), crow.diff())
    if row.numel() == 0:
        return
    entry = torch.arange(row.numel(), device=items.device)
    place = entry - (crow[:-1] - crow[0])[row] + above[row, 0]
    entry, row, place = (x[place < k] for x in (entry + crow[0], row, place))
    tied = ((values == 0).any(1) & (counts[:, 0] > 0)).nonzero().flatten()
    unmerged = values[tied], items[tied]

    target = torch.arange(k, device=items.device)
    source = target - counts * (target >= above + counts)
    values.copy_(values.gather(1, source))
    items.copy_(items.gather(1, source))
    values[row, place] = 0
    items[row, place] = col[entry].long()
    for index, *best in zip(tied.tolist(), *unmerged, strict=True):
        # In these rows, unseen items have value 0, too. They and the seen items must be ordered by item.
        seen = col[crow[index] : crow[index + 1]].long()
        both, value = torch.cat((best[1], seen)), torch.cat((best[0], best[0].new_zeros(seen.shape)))
        by_item = torch.sort(both).indices
        order = by_item[torch.sort(value[by_item], descending=True, stable=True).indices[:k]]
        values[index], items[index] = value[order], both[order]


def _topk_of_whole_rows(block: Block, n_items: int, k: int) -> tuple[Tensor, Tensor]:
    """By torch.topk of a few rows at a time. torch.topk does not define which of several equal entries it returns, nor
    their order, so rows with equal entries are selected again."""
    rows_at_once = max(1, min(TILE_ELEMENTS, tile_elements()) // max(1, n_items))
    chunks = []
    for rows in torch.arange(block.n_rows, device=block.terms[0][1].device).split(rows_at_once):
        x = block.select(rows).tile(0, n_items)
        values, items = torch.topk(x, min(k + 1, n_items), dim=1)
        tied = (values[:, 1:] == values[:, :-1]).any(1).nonzero().flatten()
        if bool(values.isnan().any()):
            raise ValueError("topk: a row contains NaN")
        values, items = values[:, :k], items[:, :k]
        if tied.numel():
            values[tied], items[tied] = _in_order(x[tied], _largest(x[tied], k))
        chunks.append((values, items))
    return torch.cat([values for values, _ in chunks]), torch.cat([items for _, items in chunks])


def _in_order(x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of x [rows, n] at ascending columns [rows, k], largest first, equal entries ordered by column."""
    values, order = torch.sort(x.gather(1, columns), dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _topk_of_tiles(
    tile: Callable[[int, int], Tensor], n_rows: int, n_items: int, k: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The k largest entries as `topk_of_block` returns them, from tile(begin, end) → [n_rows, end − begin]. One tile
    and the best entries so far are in memory."""
    items = torch.empty(n_rows, 0, dtype=torch.int64, device=device)
    if k == 0 or n_rows == 0:
        return tile(0, 0).new_zeros(n_rows, k), items.new_zeros(n_rows, k)
    best: Any = None
    for begin, end in item_tiles(n_rows, n_items, min(TILE_ELEMENTS, tile_elements())):
        values = tile(begin, end)
        values = values if best is None else torch.cat((best, values), 1)
        # The first columns are the best entries of earlier tiles. Their items are ascending and lower than those of
        # this tile, so that ties between columns are ties between items in the same order.
        n_best = items.shape[1]
        keep = _largest(values, min(k, values.shape[1]))
        fresh = keep + (begin - n_best)
        items = torch.where(keep < n_best, items.gather(1, keep.clamp(max=n_best - 1)), fresh) if n_best else fresh
        best = values.gather(1, keep)
    best, order = torch.sort(best, dim=1, descending=True, stable=True)
    return best, items.gather(1, order)


def _largest(x: Tensor, k: int) -> Tensor:
    """The columns [rows, k] of the k largest entries, ascending. Of equal entries, the lower column is selected."""
    if k == x.shape[1]:
        return torch.arange(k, device=x.device).expand(x.shape[0], -1)
    least = torch.topk(x, k, dim=1, sorted=False).values.amin(1, keepdim=True)
    chosen = x >= least
    if int(torch.count_nonzero(chosen)) != x.shape[0] * k:
        chosen = _first_of_equals(x, least, chosen, k)
    columns = chosen.nonzero()[:, 1]
    if columns.numel() != x.shape[0] * k:
        raise ValueError("topk: a row contains NaN")
    return columns.view(x.shape[0], k)


def _first_of_equals(x: Tensor, least: Tensor, chosen: Tensor, k: int) -> Tensor:
    """`chosen` reduced to exactly k entries per row: of the entries equal to the least one, the first ones stay."""
    tied = (torch.count_nonzero(chosen, dim=1) > k).nonzero().flatten()
    above, level = x[tied] > least[tied], x[tied] == least[tied]
    room = k - torch.count_nonzero(above, dim=1)[:, None]
    chosen[tied] = above | (level & (level.cumsum(1) <= room))
    return chosen
