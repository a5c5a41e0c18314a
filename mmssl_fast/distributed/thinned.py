"""Graphs with some of the edges of another one, as SGL contrasts. With groups, the part of this rank's group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import InteractionGraph, offsets_of
from .group_graph import Block, GroupGraph
from .transfers import exchange_parts, gather_whole


def own_edges(graph: InteractionGraph) -> tuple[int, int]:
    """(first, last + 1) of the edges of which `thinned` takes a mask, in the order of the users and, for each, of the
    items: all edges, or with groups those of the users of this rank's group.

    Example:
        >>> own_edges(InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3))
        (0, 3)
    """
    if not isinstance(graph, GroupGraph):
        return 0, graph.nnz
    first, last = graph.ranks.groups.span(graph.n_users)
    begin = int(graph.user_degree[:first].sum())
    return begin, begin + int(graph.user_degree[first:last].sum())


def thinned(graph: InteractionGraph, kept: Tensor) -> InteractionGraph:
    """Equals ``InteractionGraph.from_pairs(users[kept], items[kept], U, I)`` for the edges (users[e], items[e]) of the
    graph: the same users and items, with the degrees that are left.

    Nothing is sent without groups. With groups, the result is a `GroupGraph`, and all ranks must call the function. For
    each pair of groups, one has the masks of the edges between the users of one and the items of the other, and sends
    them. A rank receives at most a byte for each edge of its items, and 4·(U + I)·(G − 1)/G bytes for the degrees.

    Args:
        graph: a graph without edge values; with groups a `GroupGraph`.
        kept: bool [E], whether an edge is kept, for the edges of `own_edges` in their order.

    Raises:
        ValueError: the graph has edge values, or `kept` has another length.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> thinned(graph, torch.tensor([False, True, True])).user_degree
        tensor([1, 1])
    """
    first, last = own_edges(graph)
    if kept.dtype != torch.bool or kept.shape != (last - first,):
        raise ValueError(f"thinned: kept must be bool [{last - first}], got {kept.dtype} {tuple(kept.shape)}")
    if isinstance(graph, GroupGraph):
        return _of_group(graph, kept.to(graph.device))
    if graph.value is not None:
        raise ValueError("thinned: the graph must not have edge values")
    users = torch.repeat_interleave(torch.arange(graph.n_users, device=graph.device), graph.user_degree)
    kept = kept.to(graph.device)
    return InteractionGraph.from_pairs(users[kept], graph.col[kept], graph.n_users, graph.n_items).to(graph.device)


def _of_group(graph: GroupGraph, kept: Tensor) -> GroupGraph:
    groups = graph.ranks.groups
    first, last = groups.span(graph.n_users)
    by_user, by_item = graph.blocks["users"], graph.blocks["items"]
    # Within the row of a user, the edges of one block follow those of the block before.
    place = offsets_of(graph.user_degree[first:last])[:-1]
    masks = {}
    for begin, block in by_user.items():
        counts = block.crow.diff()
        shift = torch.repeat_interleave(place - block.crow[:-1], counts)
        masks[begin] = kept[torch.arange(len(shift), device=kept.device) + shift]
        place = place + counts
    received = _by_items(graph, masks)
    blocks = {
        "users": {begin: _cut(block, masks[begin]) for begin, block in by_user.items()},
        "items": {begin: _cut(block, received[begin]) for begin, block in by_item.items()},
    }
    degrees = []
    for side, n in (("users", graph.n_users), ("items", graph.n_items)):
        first, last = groups.span(n)
        own = torch.zeros(last - first, dtype=torch.int32, device=kept.device)
        for block in blocks[side].values():
            own += block.crow.diff().int()
        degrees.append(gather_whole(own, n, groups))
    return GroupGraph(blocks, degrees[0], degrees[1], graph.ranks)


def _by_items(graph: GroupGraph, masks: dict[int, Tensor]) -> dict[int, Tensor]:
    """The masks of the edges of this group's items, by the first user of each block. masks: those of the edges of its
    users, by the first item of each block."""
    groups, none = graph.ranks.groups, torch.empty(0, dtype=torch.uint8, device=graph.device)
    sent = [masks[begin].byte() if begin in masks else none for begin in _firsts(groups.spans(graph.n_items))]
    by_item, firsts = graph.blocks["items"], _firsts(groups.spans(graph.n_users))
    counts = [len(by_item[begin].col) if begin in by_item else 0 for begin in firsts]
    found = {}
    for begin, mask in zip(firsts, exchange_parts(sent, counts, groups), strict=True):
        if begin in by_item:
            # It was sent by user and item. A stable sort by user brings the edges, which are by item, into that order.
            order = by_item[begin].col.sort(stable=True).indices
            found[begin] = torch.empty_like(mask, dtype=torch.bool).index_copy_(0, order, mask.bool())
    return found


def _firsts(spans: list[tuple[int, int]]) -> list[int]:
    """The first node of each group, −1 for a group without nodes."""
    return [first if first < last else -1 for first, last in spans]


def _cut(block: Block, kept: Tensor) -> Block:
    return Block(F.pad(kept.cumsum(0), (1, 0))[block.crow], block.col[kept])
