"""sample_bpr for several ranks: with groups, each finds the items of the users whose edges it has."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import InteractionGraph, offsets_of
from ..ops.philox import philox4x32
from ..ops.sample_bpr import check_sampling, sample_distinct
from ..ops.sample_bpr import sample_bpr as sample_bpr_whole
from ..reference import STREAM_NEGATIVE, STREAM_POSITIVE, uniform64
from .group_graph import GroupGraph
from .transfers import all_sum


def sample_bpr(
    graph: InteractionGraph, batch: int, seed: int, offset: int = 0, over: str = "interactions"
) -> tuple[Tensor, Tensor, Tensor]:
    """Equals ``mmssl_fast.sample_bpr(whole graph, batch, seed, offset, over)`` on every rank, to the bit.

    Nothing is sent without groups, since every rank has the whole graph. With groups, every rank draws the users, whose
    degrees it has. The rank that has the edges of a user finds its positive and negative item, and a rank receives
    32·B·(G − 1)/G bytes.

    Args:
        graph: the whole graph or, with groups, a `GroupGraph`, with fewer than 2³¹ interactions and items.
        batch: number of triples B.
        seed, offset, over: as in `mmssl_fast.sample_bpr`.

    Returns:
        users, pos, neg: int64 [B] each, the same on every rank.

    Raises:
        ValueError: as in `mmssl_fast.sample_bpr`.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> [len(ids) for ids in sample_bpr(graph, batch=4, seed=0)]
        [4, 4, 4]
    """
    if not isinstance(graph, GroupGraph):
        return sample_bpr_whole(graph, batch, seed, offset, over)
    check_sampling(graph, batch, over)
    if max(graph.nnz, graph.n_items) >= 2**31:
        raise ValueError(
            f"sample_bpr: there must be fewer than 2^31 interactions and items, got {graph.nnz} and {graph.n_items}"
        )
    degree = graph.user_degree.long()
    positive = _words(seed, offset, STREAM_POSITIVE, batch, graph.device)
    negative = _words(seed, offset, STREAM_NEGATIVE, batch, graph.device)
    drawn = torch.where(degree < graph.n_items, degree, 0)  # edges that can be drawn
    if over == "users":
        # Which users are drawn depends on their numbers only. In this graph, each has one of two items.
        crow = offsets_of((drawn > 0).long())
        col = torch.zeros(graph.n_eligible, dtype=torch.int32, device=graph.device)
        users = sample_distinct(crow, col, 2, batch, seed, offset)
        place = uniform64(positive, degree[users])
    else:
        ends = drawn.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        if batch and not total:
            raise ValueError(
                f"sample_bpr: no user has both a positive and a negative item ({graph.n_users} users, {graph.n_items} "
                f"items, {graph.nnz} interactions)"
            )
        edge = uniform64(positive, total)
        users = torch.searchsorted(ends, edge, right=True)
        place = edge - (ends[users] - degree[users])
    rank = uniform64(negative, graph.n_items - degree[users])
    slots = graph._own_slots(users)
    found = torch.zeros(2, batch, dtype=torch.int64, device=graph.device)
    found[:, slots] = torch.stack(_items(graph, users[slots], place[slots], rank[slots]))
    pos, neg = all_sum(found, graph.ranks.groups)  # one rank has a term
    return users, pos, neg


def _words(seed: int, offset: int, stream: int, batch: int, device: torch.device) -> Tensor:
    counter = torch.zeros(batch, 4, dtype=torch.int64, device=device)
    counter[:, 0], counter[:, 2], counter[:, 3] = torch.arange(batch, device=device), offset, stream
    return philox4x32(seed, counter)


def _items(graph: GroupGraph, users: Tensor, place: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """For users of this group, the item at `place` in the row of each, and the one at `rank` among those that are not
    in the row."""
    crow, col = graph.own_rows(users)
    pos = col[crow[:-1] + place].long()
    # If the items s_0 < s_1 < … of a row are left out, s_e − e items are left below s_e. The numbers of all rows are
    # one ascending sequence with rows n_items + 1 apart.
    row = torch.repeat_interleave(torch.arange(len(users), device=users.device), crow.diff())
    left = col.long() - (torch.arange(len(col), device=users.device) - crow[row])
    width = graph.n_items + 1
    keys = torch.arange(len(users), device=users.device) * width + rank
    taken = torch.searchsorted(row * width + left, keys, right=True) - crow[:-1]
    return pos, rank + taken
