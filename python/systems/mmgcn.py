"""MMGCN (Wei et al., MM 2019): one graph network per modality, with shared id embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import propagate
from mmssl_fast.ops.unit_rows import unit_rows

from .base import ModuleSystem, Recommender, features_of, table


class MMGCN(Recommender):
    """h = mean over modalities of x^{m,L}, where for users and items

        x^{m,0} = unit_rows([p^m ; W_m f^m]),  x^{l+1} = σ(G_l (mean over neighbours of x^l) + σ(H_l x^l) + e),

    p^m are the users' preferences for modality m, e the id embeddings shared by all modalities, and σ is LeakyReLU.
    This is the element-wise combination of the paper. L is model.layers.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        features, dim, layers = features_of(dataset, config), config.model.dim, config.model.layers
        for m, raw in enumerate(features):
            self.register_buffer(f"features_{m}", raw, persistent=False)
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.preferences = nn.ParameterList(table(graph.n_users, dim) for _ in features)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)

        def stack() -> nn.ModuleList:
            return nn.ModuleList(nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers)) for _ in features)

        self.gather, self.keep = stack(), stack()

    def forward(self) -> tuple[Tensor, Tensor]:
        outputs = [self.modality(m) for m in range(len(self.project))]
        return tuple(torch.stack(side).mean(0) for side in zip(*outputs, strict=True))

    def modality(self, m: int) -> tuple[Tensor, Tensor]:
        """x^{m,L} of the users and the items."""
        x = unit_rows(self.preferences[m]), unit_rows(self.project[m](getattr(self, f"features_{m}")))
        for gather, keep in zip(self.gather[m], self.keep[m], strict=True):
            received = self._mean(x[1], "users"), self._mean(x[0], "items")
            x = tuple(
                F.leaky_relu(gather(mean) + F.leaky_relu(keep(side)) + ids)
                for mean, side, ids in zip(received, x, (self.users, self.items), strict=True)
            )
        return x

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id: the mean over modalities of x^{m,L}, what is received and e being 0."""
        outputs = []
        for m, project in enumerate(self.project):
            x = unit_rows(project(getattr(self, f"features_{m}")))
            for gather, keep in zip(self.gather[m], self.keep[m], strict=True):
                x = F.leaky_relu(gather.bias + F.leaky_relu(keep(x)))
            outputs.append(x)
        return torch.stack(outputs).mean(0)

    def _mean(self, x: Tensor, to: str) -> Tensor:
        # propagate divides by sqrt(degree) of the receiver; dividing once more makes it a mean.
        return propagate(self.graph, x, to) * self.graph.inv_sqrt_degree(to)[:, None]


class MMGCNSystem(ModuleSystem):
    """MMGCN with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = MMGCN
