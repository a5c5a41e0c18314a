"""HCCF (Xia et al., SIGIR 2022): contrastive learning between graph layers and a learnt hypergraph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, bpr_loss, infonce, propagate

from ..data import Dataset
from .base import Batch, ModuleSystem, Recommender, table
from .inference import Inference, Known, Tensors, bag, by_root

if TYPE_CHECKING:
    from ..config.sections import Config


class HCCF(Recommender):
    """h = Σ_{l=0..L} x^l, where for users and items alike

        z^{l+1} = σ(Σ over neighbours of x^l / sqrt(|N_u| |N_i|)),  g^{l+1} = σ(H σ(Hᵀ x^l)),  x^{l+1} = z + g + x^l,

    x⁰ are the id embeddings, σ is LeakyReLU, and H = x⁰ W gives the weight of a node in each of hccf.edges hyperedges;
    W is one matrix for users and one for items. The loss is

        L = L_BPR + λ Σ_l (infonce(g^l_u, z^l_u) + infonce(g^l_i, z^l_i)).

    The anchors are the users and the positive items of the batch. The paper's denominator sums over the hypergraph
    view; `infonce` adds the anchor's own view except the anchor itself, as in SimCLR. Unlike the published code, this
    one applies no dropout to H and to the graph.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        dim, self.layers, self.settings = config.model.dim, config.model.layers, config.hccf
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.user_edges, self.item_edges = table(dim, self.settings.edges), table(dim, self.settings.edges)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._layers()[0]

    def _layers(self) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """((h_u, h_i), [(z_u, g_u, z_i, g_i) of every layer])."""
        users: Tensor = self.users  # x^l of the users, and of the items
        items: Tensor = self.items
        h_u, h_i, layers = users, items, []
        user_weights, item_weights = users @ self.user_edges, items @ self.item_edges
        for _ in range(self.layers):
            z_u = F.leaky_relu(propagate(self.graph, items, "users", "both"))
            z_i = F.leaky_relu(propagate(self.graph, users, "items", "both"))
            g_u, g_i = _over_hyperedges(user_weights, users), _over_hyperedges(item_weights, items)
            users, items = z_u + g_u + users, z_i + g_i + items
            h_u, h_i = h_u + users, h_i + items
            layers.append((z_u, g_u, z_i, g_i))
        return (h_u, h_i), layers

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        (users, items), layers = self._layers()
        tau = self.settings.tau
        contrasts = [
            infonce(g_u, z_u, batch.users, tau, exclude_self=True)
            + infonce(g_i, z_i, batch.positives, tau, exclude_self=True)
            for z_u, g_u, z_i, g_i in layers
        ]
        bpr = bpr_loss(users, items, batch.users, batch.positives, batch.negatives)
        return {"bpr": bpr, "contrastive": self.settings.weight * sum(contrasts, bpr.new_zeros(()))}


def _over_hyperedges(weights: Tensor, x: Tensor) -> Tensor:
    """σ(H σ(Hᵀ x)) [N, d], with H = weights [N, edges]."""
    return F.leaky_relu(weights @ F.leaky_relu(weights.mT @ x))


class HCCFInference(Inference):
    """A new user has no id embedding, and so belongs to no hyperedge: g = 0."""

    no_users = ""

    def tables(self, known: Known) -> Tensors:
        graph, parameters, tables = known.graph, known.parameters, {}
        users, items = parameters["users"], parameters["items"]  # hyperedges connect items without interactions, too
        user_weights, item_weights = users @ parameters["user_edges"], items @ parameters["item_edges"]
        for layer in range(self.config.model.layers):
            tables[f"x.{layer}"] = items * by_root(graph.item_degree)
            z_u = F.leaky_relu(propagate(graph, items, "users", "both"))
            z_i = F.leaky_relu(propagate(graph, users, "items", "both"))
            users = z_u + _over_hyperedges(user_weights, users) + users
            items = z_i + _over_hyperedges(item_weights, items) + items
        return tables

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        x = total = torch.zeros(len(crow) - 1, self.config.model.dim, device=crow.device)
        for layer in range(self.config.model.layers):
            x = F.leaky_relu(bag(tables[f"x.{layer}"], crow, col) * by_root(crow.diff())) + x
            total = total + x
        return total


class HCCFSystem(ModuleSystem):
    """HCCF with AdamW."""

    model_type = HCCF
    inference = HCCFInference
