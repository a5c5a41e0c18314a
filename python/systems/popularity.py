"""Popularity: recommend the items with the most training interactions to every user."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, distributed

from ..data import Dataset
from .inference import Inference, Known, Tensors
from .untrained import UntrainedSystem

if TYPE_CHECKING:
    from ..config.sections import Config


class PopularityInference(Inference):
    """All users have the embedding 1."""

    no_users = ""
    no_items = "an item without interactions has the score 0"

    def tables(self, known: Known) -> Tensors:
        return {"one": torch.ones(1, 1)}

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        return tables["one"].expand(len(crow) - 1, 1)


class PopularitySystem(UntrainedSystem):
    """The score of an item is its number of training interactions, or the sum of their weights, for every user."""

    uses_weights = True
    over_ranks: ClassVar[dict[str, str]] = {}
    over_groups: ClassVar = True
    inference = PopularityInference

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        ranks = distributed.current()
        self.users = ranks.mine(torch.ones(graph.n_users, 1, device=graph.device))
        scores = graph.item_degree
        if dataset.weights is not None:
            scores = torch.from_numpy(dataset.weighted.astype(np.float64).sum(axis=0)).to(graph.device)
        self.items = ranks.mine(scores.to(torch.float32)[:, None])
