"""Popularity: recommend the items with the most training interactions to every user."""

from __future__ import annotations

from typing import ClassVar

import torch

from mmssl_fast import distributed

from .base import UntrainedSystem


class PopularitySystem(UntrainedSystem):
    """The score of an item is its number of training interactions, for every user."""

    over_ranks: ClassVar[dict[str, str]] = {}

    def build(self, dataset, graph, config) -> None:
        ranks = distributed.current()
        self.users = ranks.mine(torch.ones(graph.n_users, 1, device=graph.device))
        self.items = ranks.mine(graph.item_degree.to(torch.float32)[:, None])
