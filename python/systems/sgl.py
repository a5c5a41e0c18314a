"""SGL (Wu et al., SIGIR 2021): LightGCN with a contrastive loss between two views of the graph with edge dropout."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast import bpr_loss, infonce, lightgcn

from .base import Batch, ModuleSystem, ThinnedViews
from .lightgcn import LightGCN


class SGL(ThinnedViews, LightGCN):
    """L = L_BPR + λ (infonce(z''_u, z'_u) + infonce(z''_i, z'_i)), where z' and z'' are LightGCN on two
    graphs that keep each edge with probability 1 − sgl.drop. The graphs are resampled every epoch (edge dropout, SGL-ED
    in the paper).

    The anchors are the users and the positive items of the batch; the negatives are all users, or all items. The
    paper's denominator sums over the other view; `infonce` adds the anchor's own view except the anchor itself, as in
    SimCLR.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(dataset, graph, config)
        self.settings = config.sgl
        self.draw_views(2, self.settings.drop)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        users, items = self()
        bpr = bpr_loss(users, items, batch.users, batch.positives, batch.negatives)
        first, second = (lightgcn(view, self.users, self.items, self.layers, norm="both") for view in self.views())
        contrasts = [
            infonce(second[side], first[side], anchors, self.settings.tau, exclude_self=True)
            for side, anchors in enumerate((batch.users, batch.positives))
        ]
        return {"bpr": bpr, "contrastive": self.settings.weight * torch.stack(contrasts).sum()}


class SGLSystem(ModuleSystem):
    """SGL-ED with AdamW."""

    model_type = SGL
