"""SGL (Wu et al., SIGIR 2021): LightGCN with a contrastive loss between two views of the graph, edges left out."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, bpr_loss, infonce, lightgcn

from .base import Batch, ModuleSystem, thinned
from .lightgcn import LightGCN


class SGL(LightGCN):
    """L = L_BPR + λ (infonce(z''_u, z'_u) + infonce(z''_i, z'_i)), z' and z'' LightGCN on two graphs that keep every
    edge with probability 1 − sgl.drop, drawn anew each epoch (the paper's edge dropout, SGL-ED).

    Anchors are the batch's users and positive items; the negatives all nodes of their side. The paper's denominator
    sums over the other view; `infonce` adds the anchor's own view without the anchor itself, as SimCLR does.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(dataset, graph, config)
        self.settings = config.sgl
        self.register_buffer("kept", torch.ones(2, graph.nnz, dtype=torch.bool))
        self._views: list[InteractionGraph] = []
        self.register_load_state_dict_post_hook(lambda module, _: module._views.clear())

    def start_epoch(self, epoch: int) -> None:
        drawn = torch.rand(self.kept.shape) >= self.settings.drop  # on the CPU: alike on every device
        self.kept.copy_(drawn)
        self._views.clear()

    def views(self) -> list[InteractionGraph]:
        """The two graphs of this epoch."""
        if not self._views:
            self._views += [thinned(self.graph, kept) for kept in self.kept]
        return self._views

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        bpr = bpr_loss(*self(), batch.users, batch.positives, batch.negatives)
        first, second = (lightgcn(view, self.users, self.items, self.layers, norm="both") for view in self.views())
        contrasts = [
            infonce(second[side], first[side], anchors, self.settings.tau, exclude_self=True)
            for side, anchors in enumerate((batch.users, batch.positives))
        ]
        return {"bpr": bpr, "contrastive": self.settings.weight * torch.stack(contrasts).sum()}


class SGLSystem(ModuleSystem):
    """SGL-ED with AdamW."""

    model_type = SGL
