"""NGCF (Wang et al., SIGIR 2019): graph layers with weight matrices and element-wise products with the neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, propagate
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import Inference, Known, Tensors, affine, bag, by_root, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class NGCF(Recommender):
    """h = [x⁰; unit_rows(x¹); …; unit_rows(x^L)], where for users and items

        x^{l+1} = dropout(σ(W1_l (x^l + a) + W2_l (a * x^l))),  a = Σ over neighbours of x^l / sqrt(|N_u| |N_i|),

    x⁰ are the id embeddings, σ is LeakyReLU(0.2) and L is model.layers. The unit rows and the message dropout rate of
    0.1 are those of the published code.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
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
        users: Tensor = self.users
        items: Tensor = self.items
        user_layers, item_layers = [users], [items]
        for layer in range(len(self.sums)):
            to_users = propagate(self.graph, items, "users", "both")
            to_items = propagate(self.graph, users, "items", "both")
            users, items = self._next(layer, users, to_users), self._next(layer, items, to_items)
            user_layers.append(unit_rows(users))
            item_layers.append(unit_rows(items))
        return torch.cat(user_layers, 1), torch.cat(item_layers, 1)

    def _next(self, layer: int, x: Tensor, received: Tensor) -> Tensor:
        """x^{l+1} of one side, with received = a."""
        return self.dropout(F.leaky_relu(self.sums[layer](x + received) + self.products[layer](received * x), 0.2))


class NGCFInference(Inference):
    """A new user has no id embedding: x⁰ = 0."""

    no_users = ""

    def tables(self, known: Known) -> Tensors:
        graph, tables = known.graph, starting_with(known.parameters, "sums.", "products.")
        users = known.parameters["users"]
        items = torch.where((graph.item_degree > 0)[:, None], known.parameters["items"], 0)
        for layer in range(self.config.model.layers):
            tables[f"x.{layer}"] = items * by_root(graph.item_degree)
            to_users, to_items = propagate(graph, items, "users", "both"), propagate(graph, users, "items", "both")
            users, items = self._next(tables, layer, users, to_users), self._next(tables, layer, items, to_items)
        return tables

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        x = torch.zeros(len(crow) - 1, self.config.model.dim, device=crow.device)
        layers = [x]
        for layer in range(self.config.model.layers):
            received = bag(tables[f"x.{layer}"], crow, col) * by_root(crow.diff())
            x = self._next(tables, layer, x, received)
            layers.append(unit_rows(x))
        return torch.cat(layers, 1)

    def _next(self, weights: Tensors, layer: int, x: Tensor, received: Tensor) -> Tensor:
        """NGCF._next without dropout."""
        by_product = affine(weights, f"products.{layer}", received * x)
        return F.leaky_relu(affine(weights, f"sums.{layer}", x + received) + by_product, 0.2)


class NGCFSystem(ModuleSystem):
    """NGCF with BPR (Eq. 14) and AdamW."""

    model_type = NGCF
    inference = NGCFInference
