"""Popularity: recommend the items with the most training interactions to every user."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

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
    """The score of an item is its number of training interactions, for every user."""

    over_ranks: ClassVar[dict[str, str]] = {}
    inference = PopularityInference

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        ranks = distributed.current()
        self.users = ranks.mine(torch.ones(graph.n_users, 1, device=graph.device))
        self.items = ranks.mine(graph.item_degree.to(torch.float32)[:, None])
