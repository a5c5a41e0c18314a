"""Triples for training on interactions with weights: positives are drawn in proportion to these."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, sample_bpr
from mmssl_fast.ops.philox import philox_bits
from mmssl_fast.reference import STREAM_WEIGHTED_TRIPLE


class WeightedSampler:
    """`sample_bpr` with weights.

    weights: float32 [nnz] in the order of graph.col, positive. over="users": the users and negatives are those of
    `sample_bpr`, and the positive of a user is drawn in proportion to the weights. over="interactions": the interaction
    is drawn in proportion to the weights of all, with replacement, and the negative uniformly from the user's missing
    items. Users who have every item are not drawn.
    """

    def __init__(self, graph: InteractionGraph, weights: np.ndarray) -> None:
        self.graph = graph
        degrees = graph.user_degree
        users = torch.repeat_interleave(torch.arange(graph.n_users, device=graph.device), degrees)
        drawn = torch.from_numpy(weights).to(graph.device, torch.float64) * (degrees < graph.n_items)[users]
        self.ends = self._ends(drawn)
        # A user's own weights may be too small beside the sum over all users before to change it.
        sums = torch.zeros(graph.n_users, dtype=torch.float64, device=graph.device).index_add_(0, users, drawn)
        self.ends_of_users = self._ends(drawn / torch.where(sums > 0, sums, 1)[users])
        # Of the items of a user in ascending order, col_j − j is the number of missing items below col_j.
        places = torch.arange(graph.nnz, device=graph.device) - graph.crow[users]
        self.missing_before = users * (graph.n_items + 1) + graph.col - places

    def _ends(self, weights: Tensor) -> Tensor:
        return torch.from_numpy(np.cumsum(weights.cpu().numpy())).to(weights.device)  # one order of summation

    def __call__(self, batch: int, seed: int, step: int, over: str) -> tuple[Tensor, Tensor, Tensor]:
        """Users, positives and negatives, int64 [batch] each. They depend on seed and step only."""
        graph = self.graph
        rows = torch.arange(batch, device=graph.device)
        words = philox_bits(seed, step, rows, 4, STREAM_WEIGHTED_TRIPLE).to(torch.int64)
        share = ((words[:, 0] << 21) + (words[:, 1] >> 11)).double() * 2.0**-53
        if over == "users":
            users, _, negatives = sample_bpr(graph, batch, seed, step, over)
            return users, graph.col[self._entries(share, users)].long(), negatives
        entries = self._entries(share)
        users = torch.searchsorted(graph.crow, entries, right=True) - 1
        rank = (words[:, 2] * (graph.n_items - graph.user_degree[users])) >> 32  # among the missing items
        below = torch.searchsorted(self.missing_before, users * (graph.n_items + 1) + rank, right=True)
        return users, graph.col[entries].long(), rank + below - graph.crow[users]

    def _entries(self, share: Tensor, users: Tensor | None = None) -> Tensor:
        """The entries where the weights before are `share` [B] of those of the users' rows, or of all."""
        last = self.graph.nnz - 1
        if users is None:
            return torch.searchsorted(self.ends, share * self.ends[-1], right=True).clamp(max=last)
        ends, first, end = self.ends_of_users, self.graph.crow[users], self.graph.crow[users + 1]
        before = torch.where(first > 0, ends[(first - 1).clamp(min=0)], 0)
        found = torch.searchsorted(ends, before + share * (ends[end - 1] - before), right=True)
        return torch.minimum(torch.maximum(found, first), end - 1)
