"""Hits in a ranking with tied items, as expected values over all orders of these."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..embeddings import Table, zero_rows
from .order import Ranking


class Ties:
    """The probability of a hit at each rank of a list, if tied items are in random order."""

    def __init__(self, ranking: Ranking, users: Table, heldout: sp.csr_array) -> None:
        self.ranking, self.n_places = ranking, len(ranking.order)
        self.zero = zero_rows(users)
        relevant = ranking.by_place(heldout)
        self.relevant_places = self._keys(relevant, np.arange(self.n_places), self.n_places)
        self.any = ranking.rows_tied or bool(self.zero.any())
        if self.any:
            self.n_groups = len(ranking.sizes)
            unseen = relevant if ranking.seen is None else relevant - relevant.multiply(ranking.seen)
            unseen.eliminate_zeros()
            self.relevant_groups = self._keys(unseen, None, self.n_groups)
            self.seen_groups = None if ranking.seen is None else self._keys(ranking.seen, None, self.n_groups)

    def _keys(self, matrix: sp.csr_array, columns: np.ndarray | None, width: int) -> Tensor:
        """The sorted values of user * width + column over all entries. columns: column of each place; None: its group
        of tied items."""
        matrix = sp.csr_array(matrix)
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        if columns is None:
            zero, (by_row, by_popularity) = self.zero.cpu().numpy(), self.ranking.groups.cpu().numpy()
            column = np.where(zero[rows], by_popularity[matrix.indices], by_row[matrix.indices])
        else:
            column = columns[matrix.indices]
        return torch.from_numpy(np.sort(rows * width + column)).to(self.zero.device)

    def hits(self, chunk: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """For the best places [B, k] of the users `chunk` [B], float64 [B, k] each: the probability of a hit at each
        rank, and the same under the condition that the earlier ranks of its group of tied items have no hit."""
        is_hit = (_count(self.relevant_places, chunk[:, None] * self.n_places + places) > 0) & (places >= 0)
        is_hit = is_hit.to(torch.float64)
        if not self.any:
            return is_hit, is_hit
        by_row, by_popularity = self.ranking.groups[:, places.clamp(min=0)]
        group = torch.where(self.zero[chunk][:, None], by_popularity, by_row)
        tied = (places >= 0) & (self.ranking.sizes[group] > 1)
        keys = chunk[:, None] * self.n_groups + group
        members = self.ranking.sizes[group].to(torch.float64)
        if self.seen_groups is not None:
            members -= _count(self.seen_groups, keys)
        relevant = _count(self.relevant_groups, keys).to(torch.float64)
        rank = torch.arange(places.shape[1], device=places.device).expand_as(places)
        begins = torch.ones_like(tied)
        begins[:, 1:] = group[:, 1:] != group[:, :-1]
        before = rank - torch.where(begins, rank, 0).cummax(1).values  # number of earlier ranks of the same group
        probability, conditional = relevant / members, (relevant / (members - before)).clamp(max=1)
        return torch.where(tied, probability, is_hit), torch.where(tied, conditional, is_hit)


def _count(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    """The number of occurrences of each key in sorted_keys, int64."""
    above = torch.searchsorted(sorted_keys, keys, right=True)
    return above - torch.searchsorted(sorted_keys, keys)
