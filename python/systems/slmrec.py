"""SLMRec (Tao et al., TMM 2022): graph propagation per modality, with masking and alignment contrastive losses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, bpr_loss, infonce, lightgcn

from ..data import Dataset
from .base import Batch, ModuleSystem, Recommender, table
from .inference import Known, LayerSums, Tensors, affine, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class SLMRec(Recommender):
    """h = V [x^0 ; x^1 ; …; x^M] with x^m = lightgcn(graph, e_u, W_m f^m, L, norm="both"). x^0 uses the id embeddings
    of the items instead of features, and all of them share the user embeddings e_u. V is a linear map, one for users
    and one for items. The loss is L = L_BPR + λ (L_F + L_A):

        L_F (feature masking and dropout) = infonce(h''_u, h'_u) + infonce(h''_i, h'_i). h' and h'' are computed from
            masked inputs: one of the M + 1 item parts is 0, a different one in each, with dropout of rate slmrec.drop.
        L_A (fine and coarse alignment) = Σ_m infonce(B_m x^m_i, s^m), s⁰ = x⁰_i, s^m = A_m s^{m−1}: each modality is
            aligned with the ids and the preceding modalities in a common space.

    The anchors are the users and the positive items of the batch. The negatives are all users, or all items, in both
    views except the anchor itself, as in SimCLR.

    Differences from the published code: it uses only one of the two losses at a time, inner products in L_A, dropout
    after every layer, and a softmax over the cosines within the batch instead of L_BPR.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        features, dim = self.take_features(dataset, config), config.model.dim
        self.parts, self.layers, self.settings = len(features) + 1, config.model.layers, config.slmrec
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)
        self.user_fusion, self.item_fusion = nn.Linear(self.parts * dim, dim), nn.Linear(self.parts * dim, dim)
        self.coarse = nn.ModuleList(nn.Linear(dim, dim) for _ in features)
        self.fine = nn.ModuleList(nn.Linear(dim, dim) for _ in features)
        for linear in (self.user_fusion, self.item_fusion):
            nn.init.xavier_uniform_(linear.weight)

    def _inputs(self) -> tuple[Tensor, Tensor]:
        """Layer 0: users [U, parts * d] and items [I, parts * d]."""
        projected = [self.projected(m, layer) for m, layer in enumerate(self.project)]
        return self.users.repeat(1, self.parts), torch.cat([self.items, *projected], 1)

    def _propagated(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return lightgcn(self.graph, users, items, self.layers, norm="both")

    def _fused(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.user_fusion(users), self.item_fusion(items)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._fused(*self._propagated(*self._inputs()))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        inputs = self._inputs()
        propagated = self._propagated(*inputs)
        bpr = bpr_loss(*self._fused(*propagated), batch.users, batch.positives, batch.negatives)
        views = [self._view(*inputs, part) for part in torch.randperm(self.parts)[:2].tolist()]
        tau = self.settings.tau
        masked = [
            infonce(views[1][side], views[0][side], anchors, tau, exclude_self=True)
            for side, anchors in enumerate((batch.users, batch.positives))
        ]
        space, *modalities = propagated[1].chunk(self.parts, 1)
        aligned = []
        for x, coarse, fine in zip(modalities, self.coarse, self.fine, strict=True):
            space = coarse(space)
            aligned.append(infonce(fine(x), space, batch.positives, tau, exclude_self=True))
        weight = self.settings.weight
        return {
            "bpr": bpr,
            "masking": weight * reduce(torch.add, masked),
            "alignment": weight * reduce(torch.add, aligned),
        }

    def _view(self, users: Tensor, items: Tensor, masked_part: int) -> tuple[Tensor, Tensor]:
        keep = (torch.arange(self.parts) != masked_part).repeat_interleave(self.items.shape[1])
        inputs = (F.dropout(x, self.settings.drop, self.training) for x in (users, items * keep.to(items)))
        return self._fused(*self._propagated(*inputs))

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id embedding: V [0 ; W_m f_i^m / (L + 1) of every modality]."""
        items = self._inputs()[1].clone()
        items[:, : self.items.shape[1]] = 0
        return self.item_fusion(items / (self.layers + 1))


class SLMRecInference(LayerSums):
    """The content of an item is [W_m f_i^m of every modality]."""

    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.", "item_fusion.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return torch.cat([affine(weights, f"project.{m}", x) * present[m] for m, x in enumerate(features)], 1)

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        no_ids = content.new_zeros(len(content), self.config.model.dim)
        return affine(weights, "item_fusion", torch.cat([no_ids, content / (self.config.model.layers + 1)], 1))

    def starts(self, known: Known, warm: Tensor) -> tuple[Tensor, Tensor]:
        users, items = super().starts(known, warm)
        items = torch.cat([items, known.content], 1)
        return users.repeat(1, items.shape[1] // users.shape[1]), items

    def tables(self, known: Known) -> Tensors:
        return super().tables(known) | starting_with(known.parameters, "user_fusion.")

    def mapped(self, tables: Tensors, users: Tensor) -> Tensor:
        return affine(tables, "user_fusion", users)


class SLMRecSystem(ModuleSystem):
    """SLMRec with AdamW."""

    reads_features = True
    model_type = SLMRec
    inference = SLMRecInference
