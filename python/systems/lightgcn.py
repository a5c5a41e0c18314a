"""LightGCN (He et al., SIGIR 2020): id embeddings propagated over the graph, trained with BPR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from mmssl_fast import InteractionGraph, distributed

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import LayerSums

if TYPE_CHECKING:
    from ..config.sections import Config


class LightGCN(Recommender):
    """(h_u, h_i) = lightgcn(graph, e_u, e_i, L, norm="both"): the mean of layers 0..L, where each layer propagates with
    the weights 1/sqrt(|N_u| |N_i|)."""

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        self.layers = config.model.layers
        self.users, self.items = table(graph.n_users, config.model.dim), table(graph.n_items, config.model.dim)

    def forward(self) -> tuple[Tensor, Tensor]:
        return distributed.lightgcn(self.graph, self.users, self.items, self.layers, distributed.current(), norm="both")


class LightGCNSystem(ModuleSystem):
    """LightGCN with BPR (Eq. 14) and AdamW."""

    model_type = LightGCN
    inference = LayerSums
    over_ranks: ClassVar = {"users": "users", "items": "items"}
    over_groups: ClassVar = True
