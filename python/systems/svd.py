"""PureSVD (Cremonesi et al., RecSys 2010) of degree-scaled interactions, its spectrum raised: nothing is trained."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds

from ..errors import InputError
from .base import UntrainedSystem

NOISE = 1e-12  # of a singular vector's entries, whose squares add up to 1


class SVDSystem(UntrainedSystem):
    """score = P Σ^(2p+1) Qᵀ, up to a factor for each user, with P Σ Qᵀ the best rank-d approximation of
    Â = D_u^−a A D_i^−b.

    In full rank this is (Â Âᵀ)^p Â, the weight of all walks of 2p + 1 steps from the user to the item; d (model.dim)
    keeps its d strongest directions. a = svd.user_exponent, b = svd.item_exponent, p = svd.power; p = 0 is PureSVD of
    the scaled matrix. b < ½ leaves popular items an advantage, which p multiplies. Not in the paper's tables.
    """

    def build(self, dataset, graph, config) -> None:
        rank, settings = config.model.dim, config.svd
        most = min(graph.n_users, graph.n_items) - 1
        if rank > most:
            what = f"set model.dim to {most} or less" if most else "there must be at least two of each"
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
