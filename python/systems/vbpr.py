"""VBPR (He and McAuley, AAAI 2016): matrix factorisation with additional item factors projected from the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .features import features_of
from .inference import Inference, Tensors, affine, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class VBPR(Recommender):
    """ŷ_ui = γ_u·γ_i + θ_u·(E f_i) + β_i + β'·f_i, where f_i is the concatenation of the modality features.

    As a dot product: h_u = [γ_u, θ_u, 1] and h_i = [γ_i, E f_i, β_i + β'·f_i]. γ and θ have half of model.dim each, as
    in the paper. There is no user bias, because it does not affect the ranking.
    """

    features: Tensor

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        id_dim = config.model.dim // 2
        feature_dim = config.model.dim - id_dim
        features = torch.cat(features_of(dataset, config), 1)
        self.register_buffer("features", features, persistent=False)
        self.users, self.items = table(graph.n_users, id_dim + feature_dim), table(graph.n_items, id_dim)
        self.project = nn.Linear(features.shape[1], feature_dim, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        self.item_bias = nn.Parameter(torch.zeros(graph.n_items, 1))
        self.feature_bias = nn.Parameter(torch.zeros(features.shape[1], 1))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._users(), self._items(self.items, self.item_bias)

    def cold_items(self) -> Tensor:
        """h_i without the parameters that only interactions train: γ_i = 0, β_i = 0."""
        return self._items(torch.zeros_like(self.items), torch.zeros_like(self.item_bias))

    def _users(self) -> Tensor:
        return torch.cat([self.users, self.users.new_ones(self.users.shape[0], 1)], 1)

    def _items(self, id_factors: Tensor, bias: Tensor) -> Tensor:
        return torch.cat([id_factors, self.project(self.features), bias + self.features @ self.feature_bias], 1)


class VBPRInference(Inference):
    """The content of an item is [E f_i, β'·f_i]."""

    no_users = "the embedding of a user is trained, not computed from the items"
    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.", "feature_bias")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        joined = torch.cat(list(features), 1)
        return torch.cat([affine(weights, "project", joined), joined @ weights["feature_bias"]], 1)

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return torch.cat([content.new_zeros(len(content), self.config.model.dim // 2), content], 1)


class VBPRSystem(ModuleSystem):
    """VBPR with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = VBPR
    inference = VBPRInference
