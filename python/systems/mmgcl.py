"""MMGCL (Yi et al., SIGIR 2022): one graph encoder per modality, with contrastive learning between two augmented
views."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, bpr_loss, infonce, lightgcn

from ..data import Dataset
from .base import Batch, table
from .inference import Known, LayerSums, Tensors, affine, starting_with
from .views import ThinnedSystem, ThinnedViews

if TYPE_CHECKING:
    from ..config.sections import Config


class MMGCL(ThinnedViews):
    """h = Σ_{m=0..M} x^m with x^m = lightgcn(graph, p^m, W_m f^m, L, norm="both"). p^m are the users' preferences for
    modality m; x^0 uses the id embeddings of users and items. The loss is

        L = L_BPR + λ (infonce(h''_u, h'_u) + infonce(h''_i, h'_i)),

        h'  modality edge dropout: each x^m on its own graph, which keeps an edge with probability 1 − mmgcl.drop;
        h'' modality masking: h without the x^m of one modality m, which is drawn at every step.

    The graphs are resampled every epoch. The anchors are the users and the positive items of the batch. The negatives
    are all users, or all items, in both views except the anchor itself, as in SimCLR.

    Differences from the paper: its encoder is MMGCN, it masks the input with a newly initialised embedding, and it adds
    "challenging negatives", items with one modality taken from another item.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        features, dim = self.take_features(dataset, config), config.model.dim
        self.layers, self.settings = config.model.layers, config.mmgcl
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.preferences = nn.ParameterList(table(graph.n_users, dim) for _ in features)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)
        self.draw_views(1 + len(features), self.settings.drop)

    def _projected(self) -> list[Tensor]:
        return [self.projected(m, layer) for m, layer in enumerate(self.project)]

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._propagated(self.graph, self.users + sum(self.preferences), self.items + sum(self._projected()))

    def _propagated(self, graph: InteractionGraph, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return lightgcn(graph, users, items, self.layers, norm="both")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        projected = self._projected()
        whole = self._propagated(self.graph, self.users + sum(self.preferences), self.items + sum(projected))
        bpr = bpr_loss(*whole, batch.users, batch.positives, batch.negatives)
        starts = zip((self.users, *self.preferences), (self.items, *projected), strict=True)
        parts = [self._propagated(view, *start) for view, start in zip(self.views(), starts, strict=True)]
        masked_modality = int(torch.randint(len(projected), ()))  # on the CPU: no synchronisation with a GPU
        # Propagation is linear, so that h'' = h minus the masked modality.
        masked = self._propagated(self.graph, self.preferences[masked_modality], projected[masked_modality])
        contrasts = [
            infonce(
                whole[side] - masked[side],
                reduce(torch.add, (part[side] for part in parts)),
                anchors,
                self.settings.tau,
                exclude_self=True,
            )
            for side, anchors in enumerate((batch.users, batch.positives))
        ]
        return {"bpr": bpr, "contrastive": self.settings.weight * torch.stack(contrasts).sum()}

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id embedding: Σ_m W_m f_i^m / (L + 1)."""
        return reduce(torch.add, self._projected()) / (self.layers + 1)


class MMGCLInference(LayerSums):
    """The content of an item is Σ_m W_m f_i^m."""

    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return reduce(torch.add, (affine(weights, f"project.{m}", x) * present[m] for m, x in enumerate(features)))

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return content / (self.config.model.layers + 1)

    def starts(self, known: Known, warm: Tensor) -> tuple[Tensor, Tensor]:
        users, items = super().starts(known, warm)
        preferences = starting_with(known.parameters, "preferences.").values()
        return reduce(torch.add, preferences, users), items + known.content


class MMGCLSystem(ThinnedSystem):
    """MMGCL with AdamW."""

    reads_features = True
    model_type = MMGCL
    inference = MMGCLInference
