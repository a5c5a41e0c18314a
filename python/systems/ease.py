"""EASE (Steck, WWW 2019): item-item weights with the least squared error, in closed form, with optional features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from scipy.linalg import lapack
from scipy.sparse.linalg import svds
from torch import Tensor

from mmssl_fast import InteractionGraph
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from ..embeddings import Table
from ..errors import InputError
from .features import features_of, present_of
from .inference import FixedCatalogue
from .untrained import UntrainedSystem

if TYPE_CHECKING:
    from ..config.sections import Config

ROUNDING = 1e-12  # eigenvalues below this share of the largest are rounding errors
BLOCK = 1024  # rows of the items x items matrix processed at once


class EASESystem(UntrainedSystem):
    """scores = X B, where B minimises ‖W^½ (X − X B)‖² + λ ‖B‖² with a diagonal of zeros.

    X are the interactions with their weights, λ = ease.penalty, and W = D_u^−a, a = ease.user_exponent (0 in the
    paper). With P = (Xᵀ W X + λ I)⁻¹, the solution is B_ij = −P_ij / P_jj for i ≠ j. It has two exact forms as a dot
    product:

    - The embedding of a user is the row of X (sparse), that of item j the column B_·j. P comes from one Cholesky
      decomposition of items x items.
    - With the eigenvectors Q and eigenvalues Λ of Xᵀ W X, and S = Λ / (Λ + λ), P = (I − Q S Qᵀ) / λ. An item j that the
      user does not have, the only ones that are ranked, has the score (x Q S)·Q_j / (1 − Σ_r S_r Q_jr²). So the
      embeddings are x Q S^½ and Q_j S^½ / (1 − Σ_r S_r Q_jr²). With S on both sides, the cosines of the items are
      those of Q S Qᵀ; without it, they would be 0 for an item that is the only one of some user. This form is used for
      fewer users than items, from the users x users matrix W^½ X Xᵀ W^½. With ease.rank = r > 0, only the r largest
      eigenvalues are used: an approximation.

    With ease.content = w > 0, w ‖F − F B‖² is added to the error, where F are the features of the items as columns, of
    unit length per modality: the collective EASE (CEASE) of Jeunen et al., RecSys 2020. It adds w Fᵀ F to Xᵀ W X.
    With ease.content_tau = τ > 0, w K is added instead, K_ij = Σ_m exp((f_i^m·f_j^m − 1) / τ): a Gaussian kernel of
    the unit features, F in infinitely many dimensions. Near items then count more, and distant ones hardly at all.
    Neither is in the MMSSL paper.

    If features of items are missing, the error of an item leaves out the modalities that the item does not have. The
    items with the same modalities share P, so that there is one inversion for every set of modalities that occurs. As
    an explanation of other items, missing features are 0, and so is K between items of which one has none.
    """

    inference = FixedCatalogue
    uses_weights = True

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        self._settings, self._train = config.ease, sp.csr_array(dataset.weighted, dtype=np.float32)
        self._features: list[np.ndarray] = []  # of unit length, float64 [I, d_m]
        self._present = np.ones((dataset.n_items, 0), bool)  # which items have which features
        settings, rank = config.ease, config.ease.rank
        if settings.content:
            if rank:
                raise InputError("ease.content works with the exact form only; set ease.rank to 0")
            if not dataset.features:
                raise InputError(
                    f"{dataset.name}: has no features, which ease.content = {settings.content:g} needs; add "
                    "<modality>_feat.parquet, .npz, .safetensors or .npy, or set it to 0"
                )
            self._features = [unit_rows(raw).double().numpy() for raw in features_of(dataset, config)]
            self._present = torch.cat(present_of(dataset), 1).numpy() > 0
        most = min(dataset.train.shape) - 1
        if rank > most:
            raise InputError(
                f"{dataset.name}: ease.rank = {rank} with {dataset.n_users} users and {dataset.n_items} items: set it "
                f"to {max(0, most)} or less; 0 is exact"
            )
        if not settings.content and (rank or dataset.n_users < dataset.n_items):
            self._factorise(graph.device, rank, config.train.seed)
        else:
            self._invert()

    def _weighted(self) -> sp.csr_array:
        """W^½ X in float64."""
        train = self._train.astype(np.float64)
        degrees = np.asarray(train.sum(axis=1)).ravel()
        degrees = np.where(degrees > 0, degrees, 1.0)
        return sp.csr_array(sp.diags_array(degrees ** (-self._settings.user_exponent / 2)) @ train)

    def _factorise(self, device: torch.device, rank: int, seed: int) -> None:
        weighted = self._weighted()
        if rank:
            values, right = svds(weighted, rank, random_state=seed % 2**32)[1:]
            values, right = values**2, right.T
        else:
            values, left = scipy.linalg.eigh((weighted @ weighted.T).toarray(), overwrite_a=True)
            kept = values > ROUNDING * max(values.max(initial=0.0), 1.0)
            values = values[kept]
            right = weighted.T @ (left[:, kept] / np.sqrt(values))
        right[np.asarray(self._train.sum(axis=0)).ravel() == 0] = 0  # exactly
        shares = values / (values + self._settings.penalty)
        right *= np.sqrt(shares)  # in place, like the division: the matrix is the largest one
        users = self._train.astype(np.float64) @ right
        right /= (1 - np.einsum("ij,ij->i", right, right))[:, None]
        self.users, self.items = (torch.from_numpy(side.astype(np.float32)).to(device) for side in (users, right))

    def _patterns(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """(modalities, items that have just these), for every set of modalities that occurs."""
        if not self._features:
            yield [], np.arange(len(self._present))
            return
        patterns, of_item = np.unique(self._present, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            yield np.flatnonzero(pattern).tolist(), np.flatnonzero(of_item.reshape(-1) == number)

    def _by_content(self, rows: np.ndarray, columns: np.ndarray, modalities: list[int]) -> np.ndarray | float:
        """w Fᵀ F or w K between these items, float64 [n, m], of these modalities; 0 if there are none."""
        settings, total = self._settings, 0.0
        for m in modalities:
            unit = self._features[m]
            products = unit[rows] @ unit[columns].T
            if settings.content_tau:
                products -= 1
                products /= settings.content_tau
                np.exp(products, out=products)
                present = self._present[:, m]
                if not present.all():
                    products *= present[rows, None] & present[columns]
            total = products if isinstance(total, float) else np.add(total, products, out=total)
        return total if isinstance(total, float) else np.multiply(total, settings.content, out=total)

    def _inverse(self, active: np.ndarray, modalities: list[int]) -> np.ndarray:
        """P among the items `active` with the features of these modalities, float64."""
        weighted, n = self._weighted()[:, active], len(active)
        if not n:
            return np.empty((0, 0))
        gram, rows = np.empty((n, n)), sp.csr_array(weighted.T)
        for first in range(0, n, BLOCK):
            block = slice(first, first + BLOCK)
            gram[block] = (rows[block] @ weighted).toarray()
            gram[block] += self._by_content(active[block], active, modalities)
        gram.flat[:: n + 1] += self._settings.penalty
        # LAPACK works in place, on one triangle. A symmetric matrix equals its transpose, which has LAPACK's order.
        factor, failed = lapack.dpotrf(gram.T, lower=1, clean=0, overwrite_a=1)
        if not failed:
            factor, failed = lapack.dpotri(factor, lower=1, overwrite_c=1)
        if failed:
            raise InputError(
                f"EASE: the matrix of items x items is singular in float64 with ease.penalty = "
                f"{self._settings.penalty:g}; set a higher one"
            )
        gram = factor.T
        for first in range(0, n, BLOCK):  # gram has its upper triangle
            last = min(first + BLOCK, n)
            gram[last:, first:last] = gram[first:last, last:].T
            square = np.triu(gram[first:last, first:last])
            gram[first:last, first:last] = square + np.triu(square, 1).T
        return gram

    def _invert(self) -> None:
        n = self._train.shape[1]
        degrees = np.asarray(self._train.sum(axis=0)).ravel()
        active = np.arange(n) if self._settings.content else np.flatnonzero(degrees)
        items = np.zeros((n, len(active)), np.float32)
        place = np.full(n, -1)
        place[active] = np.arange(len(active))
        for modalities, targets in self._patterns():
            inverse, targets = self._inverse(active, modalities), targets[place[targets] >= 0]
            diagonal = inverse.diagonal().copy()
            for first in range(0, len(targets), BLOCK):
                rows = place[targets[first : first + BLOCK]]
                items[active[rows]] = -inverse[rows] / diagonal[rows, None]
        items[active, np.arange(len(active))] = 0
        self.users, self.items = sp.csr_array(self._train[:, active]), torch.from_numpy(items)

    def cold_items(self) -> Table | None:
        """The columns of B as they are for items without interactions: −P_ij / P_jj, where the row and the column of
        item j in Xᵀ W X are 0. None without ease.content.

        With P of all items, C = w Fᵀ F (or w K) without its diagonal and R = P C, this is R_ij − P_ij R_jj / P_jj.
        """
        if not self._features:
            return None
        every = np.arange(self._train.shape[1])
        items: Tensor = torch.zeros(len(every), len(every))
        for modalities, targets in self._patterns():
            if not modalities:
                continue  # nothing is known about these
            inverse = self._inverse(every, modalities)
            diagonal = inverse.diagonal().copy()
            for first in range(0, len(targets), BLOCK):  # rows of the result: columns of R and P
                rows = targets[first : first + BLOCK]
                own = np.arange(len(rows)), rows
                content = np.asarray(self._by_content(rows, every, modalities))
                content[own] = 0
                result = content @ inverse
                result -= inverse[rows] * (result[own] / diagonal[rows])[:, None]
                result[own] = 0
                items[torch.from_numpy(rows)] = torch.from_numpy(result.astype(np.float32))
        return items
