"""SGL (Wu et al., SIGIR 2021): LightGCN with a contrastive loss between two views of the graph with edge dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, distributed
from mmssl_fast.nn.objective import anchor_positions

from ..data import Dataset
from .base import Batch
from .inference import LayerSums
from .lightgcn import LightGCN
from .views import ThinnedSystem, ThinnedViews

if TYPE_CHECKING:
    from ..config.sections import Config


class SGL(ThinnedViews, LightGCN):
    """L = L_BPR + λ (infonce(z''_u, z'_u) + infonce(z''_i, z'_i)), where z' and z'' are LightGCN on two
    graphs that keep each edge with probability 1 − sgl.drop. The graphs are resampled every epoch (edge dropout, SGL-ED
    in the paper).

    The anchors are the users and the positive items of the batch, or loss.anchors of them; the negatives are all users,
    or all items. The paper's denominator sums over the other view; `infonce` adds the anchor's own view except the
    anchor itself, as in SimCLR.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(dataset, graph, config)
        self.settings, self.most_anchors = config.sgl, config.loss.anchors
        self.draw_views(2, self.settings.drop)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        terms, ranks = super().terms(batch), distributed.current()
        first, second = (
            distributed.lightgcn(view, self.users, self.items, self.layers, ranks, norm="both") for view in self.views()
        )
        chosen = anchor_positions(len(batch.users), self.most_anchors, batch.users.device)
        sides = (batch.users[chosen], self.graph.n_users), (batch.positives[chosen], self.graph.n_items)
        contrasts = [
            distributed.infonce(second[side], first[side], anchors, self.settings.tau, rows, ranks, exclude_self=True)
            for side, (anchors, rows) in enumerate(sides)
        ]
        return terms | {"contrastive": self.settings.weight * torch.stack(contrasts).sum()}


class SGLSystem(ThinnedSystem):
    """SGL-ED with AdamW."""

    model_type = SGL
    inference = LayerSums
    over_ranks: ClassVar = {"users": "users", "items": "items"}
    over_groups: ClassVar = True
