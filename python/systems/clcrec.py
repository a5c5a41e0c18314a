"""CLCRec (Wei et al., MM 2021): contrastive learning of a feature encoder for cold-start items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, infonce

from ..data import Dataset
from .base import Batch, ModuleSystem, Recommender, table
from .features import features_of, present_of
from .inference import Inference, Tensors, affine, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class CLCRec(Recommender):
    """ŷ_ui = e_u·e_i, and e_u·g_i for an item without interactions. g = W₂ σ(W₁ f), where f is the concatenation of the
    modality features and σ is LeakyReLU. The loss is L = (1 − λ) L_U + λ infonce(g, e_items) with

        L_U = mean over the batch of −log softmax(e_u·z_j / τ over j ∈ {i} ∪ negatives)[i].

    z_j is g_j with probability clcrec.share and e_j otherwise, so that user embeddings match both. The anchors of
    `infonce` are the positive items of the batch. An item without features in any modality is represented by e alone.

    Differences from the published code. L_U: all users share the negatives of the batch, except a user's own positive;
    the published code draws 512 per user. A negative can therefore be an item that the user has. Second term: the
    denominator sums over all items, and `infonce` adds the similarities between embeddings except the anchor's own, as
    in SimCLR; the paper samples features.
    """

    present: Tensor | None

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        features, dim, self.settings = torch.cat(features_of(dataset, config), 1), config.model.dim, config.clcrec
        self.register_buffer("features", features, persistent=False)
        present = torch.cat(present_of(dataset), 1).any(1, keepdim=True)
        self.register_buffer("present", None if present.all() else present, persistent=False)
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.encoder = nn.Sequential(
            nn.Linear(features.shape[1], self.settings.hidden), nn.LeakyReLU(), nn.Linear(self.settings.hidden, dim)
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        has_interactions = (self.graph.item_degree > 0)[:, None]
        return self.users, torch.where(has_interactions, self.items, self.encoded())

    def encoded(self) -> Tensor:
        """g [I, d]; 0 for items without features in any modality."""
        g = self.encoder(self.features)
        return g if self.present is None else g * self.present

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        encoded, tau = self.encoded(), self.settings.tau
        candidates = torch.cat([batch.positives, batch.negatives])
        # Drawn on the CPU, so that every device gets the same choice.
        by_features = (torch.rand(len(candidates), 1) < self.settings.share).to(encoded.device)
        anchors = batch.positives
        if self.present is not None:
            by_features &= self.present[candidates]
            anchors = anchors[self.present[anchors, 0]]
        z = torch.where(by_features, F.embedding(candidates, encoded), F.embedding(candidates, self.items))
        positives, negatives = z.chunk(2)
        users = F.embedding(batch.users, self.users)
        is_positive = batch.negatives == batch.positives[:, None]
        negative_scores = (users @ negatives.mT).masked_fill(is_positive, -torch.inf)
        scores = torch.cat([(users * positives).sum(1, keepdim=True), negative_scores], 1) / tau
        ranking = F.cross_entropy(scores, torch.zeros_like(batch.users))
        contrastive = infonce(encoded, self.items, anchors, tau, exclude_self=True) if len(anchors) else ranking * 0
        return {"ranking": (1 - self.settings.weight) * ranking, "contrastive": self.settings.weight * contrastive}

    def cold_items(self) -> Tensor:
        """g_i."""
        return self.encoded()


class CLCRecInference(Inference):
    """The content of an item is g_i."""

    no_users = "the embedding of a user is trained, not computed from the items"
    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "encoder.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        g = affine(weights, "encoder.2", F.leaky_relu(affine(weights, "encoder.0", torch.cat(list(features), 1))))
        return g * torch.cat(list(present), 1).amax(1, keepdim=True)

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return content


class CLCRecSystem(ModuleSystem):
    """CLCRec with AdamW."""

    reads_features = True
    model_type = CLCRec
    inference = CLCRecInference
