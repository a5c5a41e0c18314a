"""NCL (Lin et al., WWW 2022): LightGCN contrasted with its neighbourhood in the graph and with clusters of its kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, bpr_loss, cosine_topk, propagate
from mmssl_fast.nn.losses import structural_loss
from mmssl_fast.ops.unit_rows import unit_rows

from .base import Batch, ModuleSystem
from .lightgcn import LightGCN

ROUNDS = 10


class NCL(LightGCN):
    """L = L_BPR + λ (infonce(x⁰_u, x²_u) + infonce(x⁰_i, x²_i)) + λ' (L_P(users) + L_P(items)) with

        L_P = mean of −log softmax(cos(x⁰, c_k) / τ over the clusters k)[own cluster],

    x⁰ the id embeddings, x² two hops of propagation away: a node's neighbours of its own kind, whatever model.layers
    is. Anchors are the batch's users and positive items. Clusters of x⁰ are found anew each epoch (the paper's E-step)
    after the first ncl.warm_up; until then L_P is 0.

    The paper's structural denominator sums over x⁰ alone; `infonce` adds the anchor's own layer without the anchor
    itself, as SimCLR does. Clusters are those of k-means by cosine; the published code's are Euclidean, their centres
    then made unit vectors. Users and items weigh the same: the published α is 0.5 to 1.5.
    """

    def __init__(self, dataset, graph, config) -> None:
        super().__init__(dataset, graph, config)
        self.settings = config.ncl
        self.register_buffer("clustered", torch.zeros(()))
        for side, rows in (("user", graph.n_users), ("item", graph.n_items)):
            self.register_buffer(f"{side}_centres", torch.zeros(min(config.ncl.clusters, rows), config.model.dim))
            self.register_buffer(f"{side}_cluster", torch.zeros(rows, dtype=torch.int64))

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        if epoch > self.settings.warm_up:
            self.user_cluster.copy_(cluster_rows(self.users, self.user_centres))
            self.item_cluster.copy_(cluster_rows(self.items, self.item_centres))
            self.clustered.fill_(1)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        bpr, tau = bpr_loss(*self(), batch.users, batch.positives, batch.negatives), self.settings.tau
        structure = structural_loss(self.graph, self.users, self.items, batch.users, batch.positives, tau)
        prototypes = _to_centres(self.users, batch.users, self.user_centres, self.user_cluster, tau) + _to_centres(
            self.items, batch.positives, self.item_centres, self.item_cluster, tau
        )
        return {
            "bpr": bpr,
            "contrastive": self.settings.weight * structure,
            "prototypes": self.settings.prototype_weight * self.clustered * prototypes,
        }


def cluster_rows(x: Tensor, centres: Tensor) -> Tensor:
    """Spherical k-means of x [N, d]: the cluster of every row, int64 [N]; writes the unit centres [k, d], k ≤ N.

    Starts from k rows drawn from torch's CPU generator; a cluster that has lost all its rows keeps its centre.
    """
    x, rows = unit_rows(x), torch.arange(x.shape[0], device=x.device)
    centres.copy_(x[torch.randperm(x.shape[0])[: centres.shape[0]].to(x.device)])
    for _ in range(ROUNDS):
        nearest = cosine_topk(x, centres, 1)[1][:, 0]
        members = InteractionGraph.from_pairs(nearest, rows, centres.shape[0], x.shape[0]).to(x.device)
        means = unit_rows(propagate(members, x, "users", "none"))  # sums in a fixed order, which index_add's are not
        centres.copy_(torch.where(members.user_degree[:, None] > 0, means, centres))
    return cosine_topk(x, centres, 1)[1][:, 0]


def _to_centres(x: Tensor, anchors: Tensor, centres: Tensor, cluster: Tensor, tau: float) -> Tensor:
    return F.cross_entropy(unit_rows(F.embedding(anchors, x)) @ centres.mT / tau, cluster[anchors])


class NCLSystem(ModuleSystem):
    """NCL with AdamW."""

    model_type = NCL
