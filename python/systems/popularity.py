"""Popularity: every user gets the items with the most training interactions."""

from __future__ import annotations

import torch

from .base import UntrainedSystem


class PopularitySystem(UntrainedSystem):
    """The score of an item is the number of its training interactions, whoever asks."""

    def build(self, dataset, graph, config) -> None:
        self.users = torch.ones(graph.n_users, 1, device=graph.device)
        self.items = graph.item_degree.to(torch.float32)[:, None]
