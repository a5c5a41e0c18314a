"""Semantic neighbours (Eq. 8): the items that are most similar to a user in one modality."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmssl_fast import distributed
from mmssl_fast.distributed import ONE, GroupGraph, Ranks, cosine_topk, own_rows
from mmssl_fast.graph import InteractionGraph, SeenRows, offsets_of


def semantic_neighbours(
    users: Tensor,
    items: Tensor,
    k: int,
    seen: SeenRows | None = None,
    n_items: int | None = None,
    ranks: Ranks = ONE,
) -> Tensor:
    """Equals ``cosine_block(users, items).topk(k).indices``, without forming the U x I matrix: N_u^m of Eq. 8.

    Args:
        users, items: f_u^m [U, d] and f_i^m [I, d] of one modality.
        k: number of neighbours per user.
        seen: the training items of every user, which are excluded, or None to exclude none.
        ranks, n_items: the processes and I, if several share the tables; `users`, `items` and `seen` are then this
            rank's rows.

    Returns:
        int64 [U, k], best first, −1 if fewer than k items are left.
    """
    with torch.no_grad():
        rows = items.shape[0] if n_items is None else n_items
        return cosine_topk(users.detach(), items.detach(), k, rows, ranks, seen)[1]


def seen_by_own(graph: InteractionGraph, ranks: Ranks) -> SeenRows:
    """The training items of this rank's users, which `semantic_neighbours` excludes."""
    if ranks.size == 1:
        return SeenRows(graph.crow, graph.col)
    return own_rows(graph, torch.arange(*ranks.span(graph.n_users), device=graph.device))


def neighbour_graph(
    neighbours: Tensor, n_items: int, ranks: Ranks = ONE, n_users: int | None = None
) -> InteractionGraph:
    """The graph with an edge for every entry of `neighbours` (int64 [U, k], −1 for none), on the same device. With
    groups of ranks, the part of this rank's group.

    The neighbours N_i^m of the items are the same edges in the other direction. With several ranks, `neighbours` are
    those of this rank's users. A rank receives those of the others, U·k·8·(P − 1)/P bytes; with groups, it holds two
    ranks' at once.

    Args:
        n_users: U. Required with several ranks.
    """
    n_users = len(neighbours) if n_users is None else n_users
    if ranks.groups.size > 1:
        blocks = distributed.broadcast_blocks(neighbours, n_users, ranks)
        edges = (_edges(block, first) for first, block in blocks)
        return GroupGraph.from_blocks(edges, n_users, n_items, ranks).to(neighbours.device)
    neighbours = distributed.gather_whole(neighbours, n_users, ranks)
    ordered = neighbours.sort(dim=1).values  # the −1 of missing neighbours come first
    valid = ordered >= 0
    item = ordered[valid]
    user = torch.arange(n_users, device=item.device)[:, None].expand_as(ordered)[valid]
    crow, t_crow = offsets_of(valid.sum(1)), offsets_of(torch.bincount(item, minlength=n_items))
    order = torch.sort(item, stable=True).indices
    index = torch.int32 if max(n_users, n_items) < 2**31 else torch.int64
    return InteractionGraph(crow, item.to(index), t_crow, user[order].to(index), n_users=n_users, n_items=n_items)


def _edges(neighbours: Tensor, first: int) -> tuple[np.ndarray, np.ndarray]:
    """The users, who are numbered from `first`, and items of the entries of `neighbours`, in ascending order."""
    ordered = neighbours.sort(dim=1).values.cpu().numpy()
    user, column = np.nonzero(ordered >= 0)
    return (user + first).astype(np.int32), ordered[user, column]
