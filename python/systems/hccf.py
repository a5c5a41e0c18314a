"""HCCF (Xia et al., SIGIR 2022): each graph layer beside a learnt hypergraph, and a contrast between the two."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import bpr_loss, infonce, propagate

from .base import Batch, ModuleSystem, Recommender, table


class HCCF(Recommender):
    """h = Σ_{l=0..L} x^l, where for users and items alike

        z^{l+1} = σ(Σ over neighbours of x^l / sqrt(|N_u| |N_i|)),  g^{l+1} = σ(H σ(Hᵀ x^l)),  x^{l+1} = z + g + x^l,

    x⁰ the id embeddings, H = x⁰ W a node's share in each of hccf.edges hyperedges, W one matrix a side, σ LeakyReLU.
    L = L_BPR + λ Σ_l (infonce(g^l_u, z^l_u) + infonce(g^l_i, z^l_i)).

    Anchors are the batch's users and positive items. The paper's denominator sums over the hypergraph's view; `infonce`
    adds the anchor's own view without the anchor itself, as SimCLR does. H and the graph are taken without the
    published code's dropout.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        dim, self.layers, self.settings = config.model.dim, config.model.layers, config.hccf
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.user_edges, self.item_edges = table(dim, self.settings.edges), table(dim, self.settings.edges)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._layers()[0]

    def _layers(self) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """((h_u, h_i), [(z_u, g_u, z_i, g_i) of every layer])."""
        x = users, items = self.users, self.items
        shares, kept = (users @ self.user_edges, items @ self.item_edges), []
        for _ in range(self.layers):
            local = propagate(self.graph, x[1], "users", "both"), propagate(self.graph, x[0], "items", "both")
            local = tuple(F.leaky_relu(z) for z in local)
            wide = tuple(
                F.leaky_relu(share @ F.leaky_relu(share.mT @ own)) for share, own in zip(shares, x, strict=True)
            )
            x = tuple(z + g + own for z, g, own in zip(local, wide, x, strict=True))
            users, items = users + x[0], items + x[1]
            kept.append((local[0], wide[0], local[1], wide[1]))
        return (users, items), kept

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        embeddings, kept = self._layers()
        tau = self.settings.tau
        contrasts = [
            infonce(g_u, z_u, batch.users, tau, exclude_self=True)
            + infonce(g_i, z_i, batch.positives, tau, exclude_self=True)
            for z_u, g_u, z_i, g_i in kept
        ]
        bpr = bpr_loss(*embeddings, batch.users, batch.positives, batch.negatives)
        return {"bpr": bpr, "contrastive": self.settings.weight * sum(contrasts, bpr.new_zeros(()))}


class HCCFSystem(ModuleSystem):
    """HCCF with AdamW."""

    model_type = HCCF
