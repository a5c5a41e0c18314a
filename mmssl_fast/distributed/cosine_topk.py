"""cosine_topk for several ranks: the users of this rank are compared with the items of one rank after another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import SeenRows
from ..ops.cosine_topk import cosine_topk as cosine_topk_whole
from .ranks import Ranks
from .transfers import broadcast_blocks, merge_topk


def cosine_topk(
    u: Tensor,
    v: Tensor,
    k: int,
    n_items: int,
    ranks: Ranks,
    seen: SeenRows | None = None,
    kind: str = "cosine",
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Equals ``mmssl_fast.cosine_topk(u, torch.cat(every rank's v), k, seen, kind)`` for this rank's users, to the bit.

    The items of one rank after another are broadcast. The memory is that of two blocks of items, and O(B k). A rank
    receives I·d·s·(P − 1)/P bytes. No gradient.

    Args:
        u: [B, d], users of this rank. B may differ between ranks and may be 0, but all ranks must call the function.
        v: [I_p, d], this rank's items.
        k: number of items per row.
        n_items: I.
        ranks: the processes.
        seen: CSR block of B rows: the items to exclude, ascending within a row. Ids refer to the whole table; if
            `places` is given, these are places.
        kind: "cosine" or "dot".
        places: int64 [I], the same on every rank: the place of each item in an order of the items, or −1 to exclude the
            item. Equal values are ordered by place, and `seen` and the result contain places. None: ids are used.

    Returns:
        values [B, k] and items (or places) int64 [B, k]. If fewer than k items remain in a row, the rest has item −1
        and value −inf.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> cosine_topk(torch.eye(2), torch.eye(2), 1, 2, start())[1]
        tensor([[0],
                [1]])
    """
    if ranks.size == 1 and places is None:
        return cosine_topk_whole(u, v, k, seen, kind)
    values, found = u.new_empty(u.shape[0], 0), torch.empty(u.shape[0], 0, dtype=torch.int64, device=u.device)
    for first, block in broadcast_blocks(v, n_items, ranks):
        last = first + block.shape[0]
        if places is None:
            names, own = torch.arange(first, last, device=u.device), seen and seen_of_items(seen, first, last)
        else:
            names, rows = places[first:last].sort()
            left_out = int((names < 0).sum())
            names, block = names[left_out:], block[rows[left_out:]]
            own = seen and _renumbered(seen, names)
        best, at = cosine_topk_whole(u, block, min(k, len(names)), own, kind)
        at = torch.where(at < 0, -1, names[at.clamp(min=0)]) if len(names) else at
        values, found = merge_topk(torch.cat((values, best), 1), torch.cat((found, at), 1), k)
    short = (0, k - values.shape[1])
    return F.pad(values, short, value=-torch.inf), F.pad(found, short, value=-1)


def seen_of_items(seen: SeenRows, first: int, last: int) -> SeenRows:
    """Equals the entries of ``matrix[:, first:last]`` if `seen` are those of ``matrix``: the seen items in
    [first, last), counted from `first`.

    Args:
        seen: CSR block of B rows. There is no communication.
        first, last: range of items, such as those of a rank.

    Example:
        >>> seen_of_items(SeenRows(crow=torch.tensor([0, 2, 3]), col=torch.tensor([0, 4, 3])), 3, 5).col
        tensor([1, 0])
    """
    kept = (seen.col >= first) & (seen.col < last)
    return SeenRows(_offsets(seen, kept), seen.col[kept] - first)


def _renumbered(seen: SeenRows, names: Tensor) -> SeenRows:
    """The entries of `seen` that are among `names` (ascending), by their position there."""
    at = torch.searchsorted(names, seen.col.long()).clamp(max=max(len(names) - 1, 0))
    kept = names[at] == seen.col if len(names) else torch.zeros_like(seen.col, dtype=torch.bool)
    return SeenRows(_offsets(seen, kept), at[kept].to(seen.col.dtype))


def _offsets(seen: SeenRows, kept: Tensor) -> Tensor:
    return F.pad(kept.cumsum(0), (1, 0))[seen.crow]
