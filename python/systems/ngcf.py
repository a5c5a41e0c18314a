"""NGCF (Wang et al., SIGIR 2019): graph layers with weight matrices and element-wise products with the neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import propagate
from mmssl_fast.ops.unit_rows import unit_rows

from .base import ModuleSystem, Recommender, table


class NGCF(Recommender):
    """h = [x⁰; unit_rows(x¹); …; unit_rows(x^L)], where for users and items

        x^{l+1} = dropout(σ(W1_l (x^l + a) + W2_l (a * x^l))),  a = Σ over neighbours of x^l / sqrt(|N_u| |N_i|),

    x⁰ are the id embeddings, σ is LeakyReLU(0.2) and L is model.layers. The unit rows and the message dropout rate of
    0.1 are those of the published code.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        dim, layers = config.model.dim, config.model.layers
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.sums = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.products = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        for linear in (*self.sums, *self.products):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.dropout = nn.Dropout(0.1)

    def forward(self) -> tuple[Tensor, Tensor]:
        x = self.users, self.items
        layers = [x]
        for sums, products in zip(self.sums, self.products, strict=True):
            received = propagate(self.graph, x[1], "users", "both"), propagate(self.graph, x[0], "items", "both")
            x = tuple(
                self.dropout(F.leaky_relu(sums(side + a) + products(a * side), 0.2))
                for side, a in zip(x, received, strict=True)
            )
            layers.append(tuple(unit_rows(side) for side in x))
        return tuple(torch.cat(side, 1) for side in zip(*layers, strict=True))


class NGCFSystem(ModuleSystem):
    """NGCF with BPR (Eq. 14) and AdamW."""

    model_type = NGCF
