"""MMGCL (Yi et al., SIGIR 2022): a graph a modality, and a contrast of two views that each harm modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, bpr_loss, infonce, lightgcn

from .base import Batch, ModuleSystem, Recommender, ThinnedViews, features_of, table


class MMGCL(ThinnedViews, Recommender):
    """h = Σ_{m=0..M} x^m, x^m = lightgcn(graph, p^m, W_m f^m, L, norm="both") with users' own preferences p^m for each
    modality, and x^0 the same of id embeddings. L = L_BPR + λ (infonce(h''_u, h'_u) + infonce(h''_i, h'_i)):

        h'  modality edge dropout: every x^m on a graph of its own that keeps each edge with probability 1 − mmgcl.drop,
        h'' modality masking: h without one modality's x^m, m drawn at every step.

    Graphs are drawn anew each epoch. Anchors are the batch's users and positive items, the negatives all nodes of
    their side, also in the anchor's own view but for itself, as SimCLR has it.

    The paper's encoder is MMGCN's, its mask a freshly initialised embedding at the input, and it adds challenging
    negatives, items one modality of which is another item's; those are left out.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        features, dim = features_of(dataset, config), config.model.dim
        self.layers, self.settings = config.model.layers, config.mmgcl
        for m, raw in enumerate(features):
            self.register_buffer(f"features_{m}", raw, persistent=False)
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.preferences = nn.ParameterList(table(graph.n_users, dim) for _ in features)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)
        self.draw_views(1 + len(features), self.settings.drop)

    def _seen(self) -> list[Tensor]:
        return [layer(getattr(self, f"features_{m}")) for m, layer in enumerate(self.project)]

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._propagated(self.graph, self.users + sum(self.preferences), self.items + sum(self._seen()))

    def _propagated(self, graph: InteractionGraph, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return lightgcn(graph, users, items, self.layers, norm="both")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        seen = self._seen()
        whole = self._propagated(self.graph, self.users + sum(self.preferences), self.items + sum(seen))
        bpr = bpr_loss(*whole, batch.users, batch.positives, batch.negatives)
        starts = zip((self.users, *self.preferences), (self.items, *seen), strict=True)
        parts = [self._propagated(view, *start) for view, start in zip(self.views(), starts, strict=True)]
        hidden = int(torch.randint(len(seen), ()))  # on the CPU
        masked = self._propagated(self.graph, self.preferences[hidden], seen[hidden])
        contrasts = [
            infonce(whole[side] - masked[side], sum(part[side] for part in parts), anchors, self.settings.tau,
                    exclude_self=True)
            for side, anchors in enumerate((batch.users, batch.positives))
        ]  # fmt: skip
        return {"bpr": bpr, "contrastive": self.settings.weight * torch.stack(contrasts).sum()}

    def cold_items(self) -> Tensor:
        """What is left of h_i without neighbours and id: Σ_m W_m f_i^m / (L + 1)."""
        return sum(self._seen()) / (self.layers + 1)


class MMGCLSystem(ModuleSystem):
    """MMGCL with AdamW."""

    reads_features = True
    model_type = MMGCL
