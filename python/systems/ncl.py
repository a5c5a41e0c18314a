"""NCL (Lin et al., WWW 2022): LightGCN with structural and prototype contrastive losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, cosine_topk, distributed
from mmssl_fast.nn.losses import structural_loss
from mmssl_fast.nn.objective import anchor_positions
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from .base import Batch, ModuleSystem
from .inference import LayerSums
from .lightgcn import LightGCN

if TYPE_CHECKING:
    from ..config.sections import Config

ROUNDS = 10


class NCL(LightGCN):
    """L = L_BPR + λ (infonce(x⁰_u, x²_u) + infonce(x⁰_i, x²_i)) + λ' (L_P(users) + L_P(items)) with

        L_P = mean of −log softmax(cos(x⁰, c_k) / τ over the clusters k)[cluster of the anchor].

    x⁰ are the id embeddings and x² the result of two propagation steps, whatever model.layers is: users are contrasted
    with similar users, items with similar items. The anchors are the users and the positive items of the batch; of
    these, the structural losses have at most loss.anchors. x⁰ is clustered every epoch (the paper's E-step) after the
    first ncl.warm_up epochs; before that L_P is 0.

    Differences from the paper and the published code. The structural denominator of the paper sums over x⁰ only;
    `infonce` adds the anchor's own layer except the anchor itself, as in SimCLR. Clustering is k-means with cosine
    similarity; the published code uses Euclidean k-means and normalises the centres afterwards. Users and items have
    the same weight; the published α is 0.5 to 1.5.
    """

    clustered: Tensor
    user_centres: Tensor
    user_cluster: Tensor
    item_centres: Tensor
    item_cluster: Tensor

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(dataset, graph, config)
        self.settings, self.most_anchors = config.ncl, config.loss.anchors
        self.register_buffer("clustered", torch.zeros(()))
        for side, rows in (("user", graph.n_users), ("item", graph.n_items)):
            self.register_buffer(f"{side}_centres", torch.zeros(min(config.ncl.clusters, rows), config.model.dim))
            self.register_buffer(f"{side}_cluster", torch.zeros(rows, dtype=torch.int64))

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        if epoch > self.settings.warm_up:
            self.user_cluster.copy_(cluster_rows(self.users, self.user_centres, self.graph.n_users))
            self.item_cluster.copy_(cluster_rows(self.items, self.item_centres, self.graph.n_items))
            self.clustered.fill_(1)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        terms, tau, anchors = super().terms(batch), self.settings.tau, (batch.users, batch.positives)
        chosen = anchor_positions(len(batch.users), self.most_anchors, batch.users.device)
        anchored = anchors[0][chosen], anchors[1][chosen]
        structure = structural_loss(self.graph, self.users, self.items, *anchored, tau, distributed.current())
        prototypes = _to_centres(self.users, anchors[0], self.user_centres, self.user_cluster, tau) + _to_centres(
            self.items, anchors[1], self.item_centres, self.item_cluster, tau
        )
        return terms | {
            "contrastive": self.settings.weight * structure,
            "prototypes": self.settings.prototype_weight * self.clustered * prototypes,
        }


def cluster_rows(x: Tensor, centres: Tensor, n: int) -> Tensor:
    """Spherical k-means on n rows; x [n, d], or this rank's rows [n_p, d]. Returns the cluster of every row, int64 [n],
    and writes the unit-length centres to `centres` [k, d], k ≤ n.

    The initial centres are k rows chosen with torch's CPU generator. A cluster that becomes empty keeps its centre. The
    result has the same bits for any number of ranks and groups: each finds the clusters of its rows, and sums its
    columns over all rows.
    """
    x, ranks = unit_rows(x), distributed.current().ungrouped  # the graph below has one edge for each row
    rows, k = torch.arange(n, device=x.device), centres.shape[0]
    centres.copy_(distributed.gather_rows(x, torch.randperm(n)[:k].to(x.device), n, ranks))
    for _ in range(ROUNDS):
        members = InteractionGraph.from_pairs(_nearest(x, centres, n), rows, k, n).to(x.device)
        # not index_add_: on CUDA the order of its sums varies
        means = distributed.gather_whole(distributed.propagate(members, x, ranks, "users", "none"), k, ranks)
        centres.copy_(torch.where(members.user_degree[:, None] > 0, unit_rows(means), centres))
    return _nearest(x, centres, n)


def _nearest(x: Tensor, centres: Tensor, n: int) -> Tensor:
    """The nearest centre of each of the n rows, on every rank."""
    return distributed.gather_whole(cosine_topk(x, centres, 1)[1][:, 0], n, distributed.current())


def _to_centres(x: Tensor, anchors: Tensor, centres: Tensor, cluster: Tensor, tau: float) -> Tensor:
    rows = distributed.gather_rows(x, anchors, len(cluster), distributed.current())
    return F.cross_entropy(unit_rows(rows) @ centres.mT / tau, cluster[anchors])


class NCLSystem(ModuleSystem):
    """NCL with AdamW."""

    model_type = NCL
    inference = LayerSums
    over_ranks: ClassVar = {"users": "users", "items": "items"}
    over_groups: ClassVar = True
