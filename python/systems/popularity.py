"""Popularity: recommend the items with the most training interactions to every user."""

from __future__ import annotations

import torch

from .base import UntrainedSystem


class PopularitySystem(UntrainedSystem):
    """The score of an item is its number of training interactions, for every user."""

    def build(self, dataset, graph, config) -> None:
        self.users = torch.ones(graph.n_users, 1, device=graph.device)
        self.items = graph.item_degree.to(torch.float32)[:, None]
