"""Popularity: every user gets the items with the most training interactions."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch


class PopularitySystem:
    """The score of an item is the number of its training interactions, whoever asks."""

    trains = False
    least_batch = 1

    def __init__(self) -> None:
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def build(self, dataset, graph, config) -> None:
        self.counts = graph.item_degree.to(torch.float32)[:, None]
        self.n_users = graph.n_users

    def start_epoch(self, epoch: int) -> None:
        pass

    def step(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError("popularity has nothing to train")

    def embeddings(self) -> tuple[Tensor, Tensor]:
        return torch.ones(self.n_users, 1, device=self.counts.device), self.counts

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        pass
