"""Clustered search for the semantic neighbours (Eq. 8) of large catalogues: each user is compared with the items of the
clusters whose centroids are most similar to it, instead of all items.

The exact search needs 2 U I d operations for each modality: 128 TFLOP for a million users and items with d = 64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmssl_fast.graph import SeenRows, offsets_of
from mmssl_fast.ops.cosine_topk import cosine_topk
from mmssl_fast.ops.unit_rows import unit_rows
from mmssl_fast.relation.components import seen_pairs, select_entries

CLUSTERED_FROM = 10**10  # users x items from which "auto" searches by clusters
LEAST_RECALL = 0.95
FIRST_PROBES = 2  # doubled until the sample has LEAST_RECALL
SAMPLE = 512  # users that are also searched exactly, to measure the recall
ROWS_OF_A_CLUSTER = 256  # items that k-means sees for each cluster
ROUNDS = 6  # of k-means


class Search(NamedTuple):
    """What a clustered search did.

    Args:
        recall: the share of the exact neighbours that it finds, measured for a sample of up to 1,023 users whose rows
            are not 0.
        clusters, probes: the number of clusters, and of those that are searched for every user.
    """

    recall: float
    clusters: int
    probes: int


def search_method(method: str, n_users: int, n_items: int, ranks: int = 1) -> str:
    """`method`, "exact" or "ivf", with "auto" replaced by what catalogues of this size get: "ivf" from 10 thousand
    million pairs of users and items on, if there is one process."""
    if method != "auto":
        return method
    return "ivf" if ranks == 1 and n_users * n_items >= CLUSTERED_FROM else "exact"


def clustered_neighbours(
    users: Tensor, items: Tensor, k: int, seen: SeenRows | None = None, clusters: int | None = None
) -> tuple[Tensor, Search]:
    """Approximates ``cosine_topk(users, items, k, seen)[1]``, the neighbours N_u^m of equation 8, by an inverted file
    (IVF). Equals it, up to the order of equal similarities, if all clusters are searched.

    The items are divided by spherical k-means. As many clusters are searched for every user as are needed to find 95%
    of the neighbours of a sample of users, who are also searched exactly. Users for whom fewer than k items are found
    are searched exactly. The result depends on the arguments only: the same bits for any number of threads.

    With C clusters and P of them searched, the similarities cost 2 U I d P / C operations, and k-means and the choice
    of clusters 2 (U + I + 6 · 256 C) C d, instead of 2 U I d. Memory is O(U (k + P) + I d) and that of the seen pairs.

    Args:
        users, items: [U, d] and [I, d] float32 or float64.
        k: number of neighbours per user.
        seen: the items that are excluded for every user, or None. On CUDA as for `cosine_topk`.
        clusters: number of clusters C; None: sqrt(max(U, I)), at most I.

    Returns:
        The neighbours, int64 [U, k], best first, −1 if fewer than k items are left; and the `Search`: the recall that
        was measured, and the numbers of clusters.

    Raises:
        ValueError: as `cosine_topk`, or `clusters` is not between 1 and I.

    Example:
        >>> users, items = torch.randn(60, 8), torch.randn(50, 8)
        >>> neighbours, search = clustered_neighbours(users, items, k=5, clusters=6)
        >>> neighbours.shape, search.recall >= 0.95
        (torch.Size([60, 5]), True)
    """
    n_users, n_items = users.shape[0], items.shape[0]
    if clusters is None:
        clusters = max(1, min(n_items, math.isqrt(max(n_users, n_items))))
    if not 1 <= clusters <= n_items:
        raise ValueError(f"clustered_neighbours: clusters must be between 1 and {n_items}, got {clusters}")
    with torch.no_grad():
        users, items = unit_rows(users.detach()), unit_rows(items.detach())
        index = _Index(items, clusters)
        # All items are equally similar to a user of zeros, such as one without interactions: it says nothing about the
        # recall, and would have all clusters searched.
        (rows,) = torch.nonzero(users.ne(0).any(1), as_tuple=True)
        rows = rows[:: max(1, len(rows) // SAMPLE)]
        sample, sample_seen = users[rows], seen and select_entries(seen, rows)
        exact = cosine_topk(sample, items, k, sample_seen, "dot")[1]
        probes = min(FIRST_PROBES, clusters)
        recall = _recall(index.search(sample, k, sample_seen, probes), exact)
        # Equal similarities may keep it below 1 even if all clusters are searched.
        while recall < LEAST_RECALL and probes < clusters:
            probes = min(2 * probes, clusters)
            recall = _recall(index.search(sample, k, sample_seen, probes), exact)
        found = index.search(users, k, seen, probes)
        (short,) = torch.nonzero(found[:, -1:].flatten() < 0, as_tuple=True)
        if short.numel() and probes < clusters:
            found[short] = cosine_topk(users[short], items, k, seen and select_entries(seen, short), "dot")[1]
    return found, Search(recall, clusters, probes)


class _Index:
    """The items [I, d] of length 1, ordered by cluster."""

    def __init__(self, items: Tensor, clusters: int) -> None:
        self.centroids = _spherical_k_means(items, clusters)
        home = cosine_topk(items, self.centroids, 1, kind="dot")[1].flatten().clamp_min(0)  # −1: the item has NaN
        self.order = torch.sort(home, stable=True).indices
        self.items = items[self.order]
        self.offsets = offsets_of(torch.bincount(home, minlength=clusters)).tolist()
        self.home = home
        self.place = torch.empty_like(self.order)  # of each item in `order`
        self.place[self.order] = torch.arange(len(self.order), device=items.device)

    def search(self, users: Tensor, k: int, seen: SeenRows | None, probes: int) -> Tensor:
        """int64 [U, k]: the best items of the `probes` clusters that are closest to each user."""
        n_users, clusters = users.shape[0], len(self.centroids)
        values = users.new_full((n_users, k), -math.inf)
        found = torch.full((n_users, k), -1, device=users.device)
        near = cosine_topk(users, self.centroids, probes, kind="dot")[1].flatten()
        near = torch.where(near < 0, 0, near)  # a user with NaN: whose similarities are never returned
        group = torch.sort(near, stable=True).indices
        sizes = torch.bincount(near, minlength=clusters)
        member, starts = group // probes, offsets_of(sizes).tolist()
        excluded = seen and self._excluded(seen, near.view(n_users, probes), group)
        for cluster in range(clusters):
            first, last = self.offsets[cluster : cluster + 2]
            begin, end = starts[cluster : cluster + 2]
            if first == last or begin == end:
                continue
            rows = member[begin:end]
            block = excluded and _slice(excluded, begin, end)
            best, at = cosine_topk(users[rows], self.items[first:last], min(k, last - first), block, "dot")
            at = torch.where(at < 0, at, self.order[first:last][at.clamp_min(0)])
            # The clusters come in a fixed order, and a stable sort leaves equal similarities in it.
            both = torch.cat([values[rows], best], 1)
            both, chosen = torch.sort(both, dim=1, descending=True, stable=True)
            values[rows] = both[:, :k]
            found[rows] = torch.cat([found[rows], at], 1).gather(1, chosen[:, :k])
        return found

    def _excluded(self, seen: SeenRows, near: Tensor, group: Tensor) -> SeenRows:
        """A row for every pair of a user and a searched cluster, in the order of `group`, with the places of the user's
        seen items within the cluster."""
        user, item = seen_pairs(seen)
        probes = near.shape[1]
        row_of_pair = torch.empty_like(group)
        row_of_pair[group] = torch.arange(len(group), device=group.device)
        rows, places = [], []
        for probe in range(probes):
            (hit,) = torch.nonzero(near[user, probe] == self.home[item], as_tuple=True)
            rows.append(row_of_pair[user[hit] * probes + probe])
            places.append(self.place[item[hit]])
        row, place = torch.cat(rows), torch.cat(places)
        # By row, and within it by place: cosine_topk wants ascending items.
        by_place = torch.sort(place, stable=True).indices
        order = by_place[torch.sort(row[by_place], stable=True).indices]
        place = place[order]
        firsts = torch.tensor(self.offsets[:-1], device=place.device)
        return SeenRows(
            offsets_of(torch.bincount(row, minlength=len(group))), place - firsts[self.home[self.order[place]]]
        )


def _slice(rows: SeenRows, begin: int, end: int) -> SeenRows:
    """Equals ``select_entries(rows, torch.arange(begin, end))``, without a copy of the items."""
    crow = rows.crow[begin : end + 1]
    return SeenRows(crow - crow[0], rows.col[int(crow[0]) : int(crow[-1])])


def _spherical_k_means(items: Tensor, clusters: int) -> Tensor:
    """Centroids of length 1 [C, d] of rows of length 1, from evenly spaced rows. A centroid without rows stays."""
    step = max(1, len(items) // (clusters * ROWS_OF_A_CLUSTER))
    sample = items[::step]
    centroids = sample[torch.linspace(0, len(sample) - 1, clusters, device=items.device).long()].clone()
    for _ in range(ROUNDS):
        home = cosine_topk(sample, centroids, 1, kind="dot")[1].flatten().clamp_min(0)
        order = torch.sort(home, stable=True).indices
        sums = torch.segment_reduce(sample[order], "sum", lengths=torch.bincount(home, minlength=clusters), axis=0)
        centroids = torch.where(sums.norm(dim=1, keepdim=True) > 0, unit_rows(sums), centroids)
    return centroids


def _recall(found: Tensor, exact: Tensor) -> float:
    """The share of the exact items that were found; 1 if there are none."""
    wanted = exact >= 0
    hits = (exact[:, :, None] == found[:, None, :]).any(2) & wanted
    return float(hits.sum() / wanted.sum()) if wanted.any() else 1.0
