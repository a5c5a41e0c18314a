"""CLCRec (Wei et al., MM 2021): items whose features learn to stand in for their collaborative embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import infonce

from .base import Batch, ModuleSystem, Recommender, features_of, table


class CLCRec(Recommender):
    """ŷ_ui = e_u·e_i, or e_u·g_i for an item that nobody has interacted with, g = W₂ σ(W₁ f), f the modalities side by
    side, σ LeakyReLU. L = (1 − λ) L_U + λ infonce(g, e_items), anchors the batch's positive items, and

        L_U = mean over the batch of −log softmax(e_u·z_j / τ over j ∈ {i} ∪ negatives)[i],

    z_j one of e_j and g_j, by chance (clcrec.share is that of g): users learn to know either.

    Negatives of L_U are those of the whole batch, for every user, without the user's own positive; the published code
    draws 512 a user, so here one of them may be an item the user has. The denominator of the other term sums over all
    items, and `infonce` adds the embeddings' own without the anchor, as SimCLR does; the paper's samples features.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        features, dim, self.settings = torch.cat(features_of(dataset, config), 1), config.model.dim, config.clcrec
        self.register_buffer("features", features, persistent=False)
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.encoder = nn.Sequential(
            nn.Linear(features.shape[1], self.settings.hidden), nn.LeakyReLU(), nn.Linear(self.settings.hidden, dim)
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        known = (self.graph.item_degree > 0)[:, None]
        return self.users, torch.where(known, self.items, self.encoder(self.features))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        seen, tau = self.encoder(self.features), self.settings.tau
        candidates = torch.cat([batch.positives, batch.negatives])
        drawn = torch.rand(len(candidates), 1) < self.settings.share  # on the CPU: alike on every device
        chosen = torch.where(drawn.to(seen.device), F.embedding(candidates, seen), F.embedding(candidates, self.items))
        positives, negatives = chosen.chunk(2)
        users = F.embedding(batch.users, self.users)
        own = batch.negatives == batch.positives[:, None]
        against = (users @ negatives.mT).masked_fill(own, -torch.inf)
        scores = torch.cat([(users * positives).sum(1, keepdim=True), against], 1) / tau
        ranking = F.cross_entropy(scores, torch.zeros_like(batch.users))
        features = infonce(seen, self.items, batch.positives, tau, exclude_self=True)
        return {"ranking": (1 - self.settings.weight) * ranking, "contrastive": self.settings.weight * features}

    def cold_items(self) -> Tensor:
        """g_i."""
        return self.encoder(self.features)


class CLCRecSystem(ModuleSystem):
    """CLCRec with AdamW."""

    reads_features = True
    model_type = CLCRec
