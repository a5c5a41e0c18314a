"""SLMRec (Tao et al., TMM 2022): modalities each on the graph, contrasted with some left out and with each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import bpr_loss, infonce, lightgcn

from .base import Batch, ModuleSystem, Recommender, features_of, table


class SLMRec(Recommender):
    """h = V [x^0 ; x^1 ; …; x^M], V a linear map a side, x^m = lightgcn(graph, e_u, W_m f^m, L, norm="both") and x^0
    the same of items' id embeddings; users start every one of them from e_u. L = L_BPR + λ (L_F + L_A), of which

        L_F (feature masking and dropout) = infonce(h''_u, h'_u) + infonce(h''_i, h'_i), where each of h' and h'' is
            read off layer 0 with one of the items' M + 1 parts put to 0, another in each, and slmrec.drop dropped out,
        L_A (fine and coarse alignment) = Σ_m infonce(B_m x^m_i, s^m), s⁰ = x⁰_i, s^m = A_m s^{m−1}: a modality agrees
            with the ids and the modalities before it in a space of their own.

    Anchors are the batch's users and positive items, the negatives all nodes of their side, also in the anchor's own
    view but for itself, as SimCLR has it.

    The published code takes one of the two tasks at a time, inner products in L_A, dropout after every layer, and the
    batch's softmax over cosines where L_BPR is here as for the other systems.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(graph)
        features, dim = features_of(dataset, config), config.model.dim
        self.parts, self.layers, self.settings = len(features) + 1, config.model.layers, config.slmrec
        for m, raw in enumerate(features):
            self.register_buffer(f"features_{m}", raw, persistent=False)
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)
        self.user_fusion, self.item_fusion = nn.Linear(self.parts * dim, dim), nn.Linear(self.parts * dim, dim)
        self.coarse = nn.ModuleList(nn.Linear(dim, dim) for _ in features)
        self.fine = nn.ModuleList(nn.Linear(dim, dim) for _ in features)
        for linear in (self.user_fusion, self.item_fusion):
            nn.init.xavier_uniform_(linear.weight)

    def _inputs(self) -> tuple[Tensor, Tensor]:
        """Layer 0: users [U, parts * d] and items [I, parts * d]."""
        seen = [layer(getattr(self, f"features_{m}")) for m, layer in enumerate(self.project)]
        return self.users.repeat(1, self.parts), torch.cat([self.items, *seen], 1)

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
        views = [self._view(*inputs, hidden) for hidden in torch.randperm(self.parts)[:2].tolist()]
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
        return {"bpr": bpr, "masking": weight * sum(masked), "alignment": weight * sum(aligned)}

    def _view(self, users: Tensor, items: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
        shown = (torch.arange(self.parts) != hidden).repeat_interleave(self.items.shape[1])
        inputs = (F.dropout(x, self.settings.drop, self.training) for x in (users, items * shown.to(items)))
        return self._fused(*self._propagated(*inputs))

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id: V [0 ; W_m f_i^m / (L + 1) of every modality]."""
        items = self._inputs()[1].clone()
        items[:, : self.items.shape[1]] = 0
        return self.item_fusion(items / (self.layers + 1))


class SLMRecSystem(ModuleSystem):
    """SLMRec with AdamW."""

    reads_features = True
    model_type = SLMRec
