"""Semantic neighbours (Eq. 8): the items that are most similar to a user in one modality."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.distributed import ONE, Ranks, cosine_topk
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


def neighbour_graph(neighbours: Tensor, n_items: int) -> InteractionGraph:
    """The graph with an edge for every entry of `neighbours` (int64 [U, k], −1 for none), on the same device.

    The neighbours N_i^m of the items are the same edges in the other direction.
    """
    n_users = neighbours.shape[0]
    ordered = neighbours.sort(dim=1).values  # the −1 of missing neighbours come first
    valid = ordered >= 0
    item = ordered[valid]
    user = torch.arange(n_users, device=item.device)[:, None].expand_as(ordered)[valid]
    crow, t_crow = offsets_of(valid.sum(1)), offsets_of(torch.bincount(item, minlength=n_items))
    order = torch.sort(item, stable=True).indices
    index = torch.int32 if max(n_users, n_items) < 2**31 else torch.int64
    return InteractionGraph(crow, item.to(index), t_crow, user[order].to(index), n_users=n_users, n_items=n_items)
