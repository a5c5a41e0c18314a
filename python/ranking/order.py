"""The order in which items are ranked for a user, in evaluation and in recommendation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, SeenRows, cosine_topk, distributed
from mmssl_fast.distributed import ONE, Ranks
from mmssl_fast.relation.components import select_entries

from ..embeddings import Table, best_scores, device_of, order_keys, row_keys, scorer, take, zero_rows


class Ranking:
    """The order of the items for a user, which validation, testing and recommendation share.

    1. Items are ordered by score, users @ items.T, the highest first.
    2. Items with equal scores are ordered by popularity, the number of training interactions. A user with a zero
       embedding, for example without training interactions, has the score 0 for all items and so gets the most popular
       ones.
    3. Items with a zero embedding come last, ordered by popularity. The system knows nothing about them, so that their
       score of 0 has no meaning.
    4. Items that are still equal are ordered by a hash of their embeddings. Items with the same embedding are tied, and
       so are items of the same popularity for a user with a zero embedding. Metrics are expected values over all orders
       of tied items; lists order them by `labels`.

    The order does not depend on the indices of items, so that renumbering users or items does not change the metrics
    and lists.

    items: [I, d] embeddings. popularity: int64 [I]; None: all equal. seen: interactions that are excluded from the
    ranking. labels: uint64 [I], order of tied items in a list; None: by index. ranks: with several processes,
    `items` are this rank's [I_p, d], `seen` has the rows of this rank's users, popularity is required, and all ranks
    must ask for the same number of lists, empty ones included.
    """

    def __init__(
        self,
        items: Table,
        popularity: np.ndarray | None = None,
        seen: InteractionGraph | None = None,
        labels: np.ndarray | None = None,
        ranks: Ranks = ONE,
    ) -> None:
        if popularity is None:
            if ranks.size > 1:
                raise ValueError("Ranking: over several processes, popularity is required")
            popularity = np.zeros(items.shape[0], np.int64)
        popularity, n_items = np.asarray(popularity, np.int64), len(popularity)
        labels = np.zeros(n_items, np.uint64) if labels is None else labels
        device = device_of(items)
        zero, hashes = zero_rows(items).to(torch.uint8), torch.from_numpy(row_keys(items)).to(device)
        unscored = distributed.gather_whole(zero, n_items, ranks).cpu().numpy().astype(bool)
        keys = distributed.gather_whole(hashes, n_items, ranks).cpu().numpy()
        # order_keys: tied scores are common in sparse tables, and the keys of these depend on the numbering.
        by_columns = order_keys(items) if ranks.size == 1 else np.zeros(n_items, np.int64)
        order = np.lexsort((labels, keys, by_columns, -popularity, unscored))
        # Groups of tied items: items with equal embeddings, and for users with a zero embedding, of equal popularity.
        other_popularity = _changes(popularity[order], unscored[order])
        rows, popular = np.cumsum(other_popularity | _changes(keys[order])), np.cumsum(other_popularity)
        n_rows = int(rows.max(initial=0))
        groups = np.stack([rows - 1, popular - 1 + n_rows])
        self.n_scored = n_items - int(unscored.sum())
        self.order = torch.from_numpy(order).to(device)
        self.groups = torch.from_numpy(groups).to(device)
        self.sizes = torch.from_numpy(np.bincount(groups.ravel())).to(device)
        self.rows_tied = n_rows < n_items
        self.ranks, self.items = ranks, items
        self._score: Callable[[sp.csr_array], np.ndarray] | None = None  # only for sparse users
        self.place: Tensor | None = None  # of each item in `order`, −1 without a score; only over several processes
        if ranks.size > 1:
            self.place = torch.full((n_items,), -1, device=device)
            self.place[self.order[: self.n_scored]] = torch.arange(self.n_scored, device=device)
        self.place_of: Tensor | None = None  # of each item in `order`, when it is first needed
        self.seen: sp.csr_array | None = None
        self._seen_parts: tuple[SeenRows | None, ...] = (None, None)
        if seen is not None:
            self.seen = self.by_place(_csr(seen))
            parts = self.seen[:, : self.n_scored], self.seen[:, self.n_scored :]
            self._seen_parts = tuple(SeenRows(*_offsets_and_columns(part, device)) for part in parts)

    def best(
        self, users: Table, index: Tensor, k: int, excluded: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The first k items: (scores [B, k], items int64 [B, k]). If fewer are left, item −1 with score −inf.

        users: [B, d] embeddings. index: [B], the rows of these users in `seen`. excluded: (rows of `users`, items),
        int64 [n] each, pairs that are excluded besides those in `seen`; in one process only.
        """
        scores, places = self.places(users, index, k, excluded)
        return scores, torch.where(places < 0, -1, self.order[places])

    def places(
        self, users: Table, index: Tensor, k: int, excluded: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same as `best`, with positions in `self.order` instead of items."""
        if excluded is not None:
            excluded = excluded[0], self._place_of(excluded[1])
        if isinstance(users, Tensor):
            scores, places = self._topk(users, self._items, k, 0, index, excluded)
        else:
            self._score = self._score or scorer(self.items, self.order[: self.n_scored].numpy())
            seen = None if self.seen is None else self.seen[index.numpy()][:, : self.n_scored]
            if excluded is not None:
                pairs = self._pairs(excluded, len(index))[:, : self.n_scored]
                seen = pairs if seen is None else seen.maximum(pairs)
            scores, places = best_scores(users, self._score, self.n_scored, k, seen)
        short = (places < 0).any(1).nonzero().flatten()
        n_unscored = len(self.order) - self.n_scored
        if not (n_unscored and len(short)):
            return scores, places
        blank = scores.new_zeros(max(len(short), n_unscored), 1)
        if excluded is not None:
            row_of = torch.full((len(index),), -1, device=scores.device)
            row_of[short] = torch.arange(len(short), device=scores.device)
            there = row_of[excluded[0]] >= 0
            excluded = row_of[excluded[0][there]], excluded[1][there]
        more_scores, more = self._topk(blank[: len(short)], blank[:n_unscored], k, 1, index[short], excluded)
        all_places = torch.cat([places[short], torch.where(more < 0, -1, more + self.n_scored)], 1)
        first = (all_places < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        places[short] = all_places.gather(1, first)
        scores[short] = torch.cat([scores[short], more_scores], 1).gather(1, first)
        return scores, places

    @cached_property
    def _items(self) -> Table:
        """The items with a score in the order of `self.order`; over several processes all items of this rank."""
        return self.items if self.ranks.size > 1 else take(self.items, self.order[: self.n_scored])

    def _pairs(self, excluded: tuple[Tensor, Tensor], rows: int) -> sp.csr_array:
        """Pairs (rows, positions in `self.order`) as a matrix [rows, I] of ones."""
        row, place = (side.numpy() for side in excluded)
        pairs = sp.csr_array((np.ones(len(row), np.float32), (row, place)), shape=(rows, len(self.order)))
        pairs.sum_duplicates()
        return pairs

    def _topk(
        self,
        users: Tensor,
        items: Tensor,
        k: int,
        part: int,
        index: Tensor,
        excluded: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        seen = self._seen_parts[part]
        rows = None if seen is None else select_entries(seen, index)
        if excluded is not None:
            first = self.n_scored if part else 0
            there = (excluded[1] >= first) & (excluded[1] < first + len(items))
            rows = _with_pairs(rows, len(users), excluded[0][there], excluded[1][there] - first, len(items))
        if part == 0 and self.place is not None:
            return distributed.cosine_topk(users, items, k, len(self.place), self.ranks, rows, "dot", self.place)
        length = min(k, len(items))
        scores, places = cosine_topk(users, items, length, seen=rows, kind="dot")
        return F.pad(scores, (0, k - length), value=-torch.inf), F.pad(places, (0, k - length), value=-1)

    def _place_of(self, items: Tensor) -> Tensor:
        """The positions of items in `self.order`."""
        if self.place_of is None:
            self.place_of = torch.empty_like(self.order)
            self.place_of[self.order] = torch.arange(len(self.order), device=self.order.device)
        return self.place_of[items]

    def by_place(self, matrix: sp.csr_array) -> sp.csr_array:
        """The matrix [U, I] with its columns in the order of `self.order`."""
        place = np.empty(len(self.order), np.int64)
        place[self.order.cpu().numpy()] = np.arange(len(place))
        moved = sp.csr_array((matrix.data, place[matrix.indices], matrix.indptr), shape=matrix.shape)
        moved.sort_indices()
        return moved


def _changes(*columns: np.ndarray) -> np.ndarray:
    """bool [N]: whether a row of the columns differs from the previous one. True for the first row."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _offsets_and_columns(matrix: sp.csr_array, device: torch.device) -> tuple[Tensor, Tensor]:
    """The offsets and the columns of a matrix with sorted columns, as SeenRows has them."""
    index = np.int32 if matrix.shape[1] < 2**31 else np.int64
    arrays = matrix.indptr.astype(np.int64), matrix.indices.astype(index, copy=False)
    crow, col = (torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
    return crow, col


def _csr(graph: InteractionGraph) -> sp.csr_array:
    """The edges of the graph as a SciPy matrix of ones."""
    entries = np.ones(graph.nnz, np.float32), graph.col.cpu().numpy(), graph.crow.cpu().numpy()
    return sp.csr_array(entries, shape=(graph.n_users, graph.n_items))


def _with_pairs(seen: SeenRows | None, n_rows: int, rows: Tensor, columns: Tensor, width: int) -> SeenRows:
    """The rows with these pairs added. width: number of columns."""
    keys = rows * width + columns
    if seen is not None:
        counts = seen.crow.diff()
        own = torch.repeat_interleave(torch.arange(n_rows, device=rows.device), counts) * width + seen.col
        keys = torch.cat([own, keys])
    keys = keys.unique()
    crow = torch.searchsorted(keys, torch.arange(n_rows + 1, device=rows.device) * width)
    return SeenRows(crow, keys % max(width, 1))
