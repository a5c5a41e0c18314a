"""LightGCN-M: LightGCN with item features added to the item embeddings.

The MMSSL paper compares with it but gives no formula: "incorporate multi-modal item features during the graph-based
message passing". Here the features are added at layer 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, lightgcn

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .features import features_of
from .inference import Known, LayerSums, Tensors, affine, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class LightGCNM(Recommender):
    """(h_u, h_i) = lightgcn(graph, e_u, e_i + Σ_m W_m f_i^m, L, norm="both")."""

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        self.layers = config.model.layers
        features = torch.cat(features_of(dataset, config), 1)  # Σ_m W_m f^m as a single product
        self.register_buffer("features", features, persistent=False)
        self.users, self.items = table(graph.n_users, config.model.dim), table(graph.n_items, config.model.dim)
        self.project = nn.Linear(features.shape[1], config.model.dim, bias=False)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self) -> tuple[Tensor, Tensor]:
        return lightgcn(self.graph, self.users, self.items + self.project(self.features), self.layers, norm="both")

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id embedding: Σ_m W_m f_i^m / (L + 1)."""
        return self.project(self.features) / (self.layers + 1)


class LightGCNMInference(LayerSums):
    """The content of an item is Σ_m W_m f_i^m."""

    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return affine(weights, "project", torch.cat(list(features), 1))

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return content / (self.config.model.layers + 1)

    def starts(self, known: Known, warm: Tensor) -> tuple[Tensor, Tensor]:
        users, items = super().starts(known, warm)
        return users, items + known.content


class LightGCNMSystem(ModuleSystem):
    """LightGCN-M with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = LightGCNM
    inference = LightGCNMInference
