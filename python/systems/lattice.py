"""LATTICE (Zhang et al., MM 2021): LightGCN plus propagation over item-item graphs computed from the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, cosine_topk, lightgcn, propagate
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import LayerSums

if TYPE_CHECKING:
    from ..config.sections import Config


class LATTICE(Recommender):
    """h_u = x_u and h_i = x_i + y_i/‖y_i‖ with (x_u, x_i) = lightgcn(graph, e_u, e_i, L, norm="both") and

        y = Σ_m α_m (λ S^m + (1 − λ) A^m) e_i,  α = softmax of a learnt weight a modality.

    S^m[i, j] = max(0, cos(f_i, f_j)) for the k items j most similar to i (`cosine_topk`, which includes i itself), and
    0 elsewhere. It is scaled by 1/sqrt(degree_i degree_j), where the degrees are row sums, and it does not change. A^m
    is the same for W_m f. Its neighbours are recomputed every epoch and its values at every step, so that W_m gets a
    gradient. λ, k and the number of layers over the item graph are lattice.keep, lattice.neighbours and lattice.layers,
    with the published defaults 0.9, 10 and 1.

    The graph of each modality is scaled before the mixture; the published code scales the mixture of the A^m.
    """

    neighbours: Tensor

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        self.layers, self.settings = config.model.layers, config.lattice
        features = self.take_features(dataset, config)
        self.modalities, self.k = len(features), min(config.lattice.neighbours, graph.n_items)
        self.users, self.items = table(graph.n_users, config.model.dim), table(graph.n_items, config.model.dim)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], config.model.dim) for raw in features)
        self.mixture = nn.Parameter(torch.zeros(len(features)))
        self.register_buffer("neighbours", torch.zeros(len(features), graph.n_items, self.k, dtype=torch.int64))
        self.fixed = [_item_graph(raw, self.k).to(graph.device) for raw in features]
        self._update_neighbours()

    def start_epoch(self, epoch: int) -> None:
        if epoch > 1:
            self._update_neighbours()

    @torch.no_grad()
    def _update_neighbours(self) -> None:
        for m, projected in enumerate(self._projected()):
            self.neighbours[m] = cosine_topk(projected, projected, self.k)[1]

    def _projected(self) -> list[Tensor]:
        return [self.projected(m, layer) for m, layer in enumerate(self.project)]

    def over_items(self, y: Tensor) -> Tensor:
        """y/‖y‖ [I, d] from id embeddings [I, d]."""
        mixture, keep = self.mixture.softmax(0), self.settings.keep
        learnt = [
            _weights(unit_rows(x), neighbours) for x, neighbours in zip(self._projected(), self.neighbours, strict=True)
        ]
        for _ in range(self.settings.layers):
            parts = [
                keep * propagate(self.fixed[m], y, norm="none")
                + (1 - keep) * _weighted(learnt[m], self.neighbours[m], y)
                for m in range(self.modalities)
            ]
            y = (mixture[:, None, None] * torch.stack(parts)).sum(0)
        return unit_rows(y)

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = lightgcn(self.graph, self.users, self.items, self.layers, norm="both")
        return users, items + self.over_items(self.items)

    def cold_items(self) -> Tensor:
        """y_i/‖y_i‖: the embeddings of the most similar items. Items without interactions contribute 0."""
        has_interactions = (self.graph.item_degree > 0)[:, None]
        return self.over_items(torch.where(has_interactions, self.items, 0))


def _weights(x: Tensor, neighbours: Tensor) -> Tensor:
    """The scaled edge weights [I, k] of an item graph with unit rows x [I, d] and neighbours [I, k]."""
    values = (F.embedding(neighbours, x) * x[:, None]).sum(2).clamp(min=0)
    degree = values.sum(1)
    # The clamp keeps rsqrt, and its gradient, finite in the branch that torch.where discards.
    scale = torch.where(degree > 0, degree.clamp(min=torch.finfo(x.dtype).tiny).rsqrt(), 0)
    return scale[:, None] * values * scale[neighbours]


def _weighted(values: Tensor, neighbours: Tensor, x: Tensor) -> Tensor:
    """Row i is Σ_j values[i, j] x[neighbours[i, j]], [I, d]."""
    return (values[:, :, None] * F.embedding(neighbours, x)).sum(1)


def _item_graph(features: Tensor, k: int) -> InteractionGraph:
    """S^m, as a graph whose users and items are both the items."""
    neighbours = cosine_topk(features, features, k)[1]
    rows = torch.arange(features.shape[0]).repeat_interleave(neighbours.shape[1])
    values = _weights(unit_rows(features), neighbours)
    return InteractionGraph.from_pairs(rows, neighbours.flatten(), *2 * (features.shape[0],), values=values.flatten())


class LATTICEInference(LayerSums):
    """Users are those of LightGCN."""

    no_items = "its item graph contains the items of the training only; train again with the new items in the data"


class LATTICESystem(ModuleSystem):
    """LATTICE with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = LATTICE
    inference = LATTICEInference
