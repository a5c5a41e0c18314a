"""PureSVD (Cremonesi et al., RecSys 2010) of degree-scaled interactions, its spectrum raised, features beside it:
nothing is trained."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from mmssl_fast import propagate
from mmssl_fast.ops.unit_rows import unit_rows

from ..errors import InputError
from .base import UntrainedSystem, features_of

NOISE = 1e-12  # of a singular vector's entries, whose squares add up to 1
BLOCK = 4096  # users at once
FLAT = 1e-6  # of the lengths that a dot product is made of: a spread below it is rounding


class SVDSystem(UntrainedSystem):
    """score = P Σ^(2p+1) Qᵀ, up to a factor for each user, with P Σ Qᵀ the best rank-d approximation of
    Â = D_u^−a A D_i^−b.

    In full rank this is (Â Âᵀ)^p Â, the weight of all walks of 2p + 1 steps from the user to the item; d (model.dim)
    keeps its d strongest directions. a = svd.user_exponent, b = svd.item_exponent, p = svd.power; p = 0 is PureSVD of
    the scaled matrix. b < ½ leaves popular items an advantage, which p multiplies. Not in the paper's tables.

    With svd.content = w > 0 a user's scores, divided by their standard deviation over the items, are joined by w times
    those of each modality, divided likewise: the mean cosine of an item's features with those of the user's items. A
    user that scores all items alike in one of them has 0 there.
    """

    def build(self, dataset, graph, config) -> None:
        rank, settings = config.model.dim, config.svd
        most = min(graph.n_users, graph.n_items) - 1
        if rank > most:
            heads = config.model.heads
            what = f"set model.dim to {most - most % heads} or less, a multiple of model.heads = {heads}"
            if most < heads:
                what = f"set model.dim to {most} and model.heads to 1" if most else "there must be at least two of each"
            raise InputError(
                f"{dataset.name}: --system svd with model.dim = {rank} and {graph.n_users} users, {graph.n_items} "
                f"items: {what}"
            )
        matrix = dataset.train.astype(np.float64)
        scale = [
            sp.diags_array(np.maximum(matrix.sum(axis), 1.0) ** -exponent)
            for axis, exponent in ((1, settings.user_exponent), (0, settings.item_exponent))
        ]
        left, values, right = svds(scale[0] @ matrix @ scale[1], rank, random_state=config.train.seed % 2**32)
        left, right = (np.where(np.abs(side) < NOISE, 0.0, side) for side in (left, right.T))
        users = left * (values / values.max()) ** (2 * settings.power + 1)
        largest = np.abs(users).max(1, keepdims=True)  # of a user in weak directions alone below what float32 holds
        users /= np.where(largest > 0, largest, 1.0)
        self.users = torch.from_numpy(users.astype(np.float32)).to(graph.device)
        self.items = torch.from_numpy(right.astype(np.float32)).to(graph.device)
        self.known = self.items.shape[1]  # columns that interactions alone fill
        if settings.content:
            features = [unit_rows(raw.to(graph.device)) for raw in features_of(dataset, config)]
            degrees = graph.user_degree.clamp(min=1)[:, None]
            tastes = [propagate(graph, seen, "users", norm="none") / degrees for seen in features]
            scaled = [settings.content * _by_spread(own, seen) for own, seen in zip(tastes, features, strict=True)]
            self.users = torch.cat([_by_spread(self.users, self.items), *scaled], 1)
            self.items = torch.cat([self.items, *features], 1)

    def cold_items(self) -> Tensor | None:
        """The items' features alone; None without svd.content."""
        if self.known == self.items.shape[1]:
            return None
        return torch.cat([torch.zeros_like(self.items[:, : self.known]), self.items[:, self.known :]], 1)


def _by_spread(users: Tensor, items: Tensor) -> Tensor:
    """users [U, d], each divided by the standard deviation over the items of its dot products with `items` [I, d]."""
    centred = items.double() - items.double().mean(0)
    covariance, largest = centred.mT @ centred / len(items), items.norm(dim=1).amax()
    del centred
    blocks = []
    for own in users.split(BLOCK):
        own = own.double()
        spread = ((own @ covariance) * own).sum(1, keepdim=True).clamp(min=0).sqrt()
        least = FLAT * own.norm(dim=1, keepdim=True) * largest
        blocks.append(torch.where(spread > least, own / spread, 0.0).to(users.dtype))
    return torch.cat(blocks)
