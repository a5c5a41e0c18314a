"""Ranking of items and ranking metrics. All items without a training interaction of the user are ranked, not only a
sample of them.

The file has over 400 lines, because rankings, ties and metrics share the order of the items and the groups of users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, SeenRows, cosine_topk, distributed
from mmssl_fast.distributed import ONE, Ranks
from mmssl_fast.graph import interactions

from .config.names import METRICS
from .data import Dataset
from .embeddings import Table, best_scores, device_of, order_keys, row_keys, scorer, take, zero_rows
from .errors import InputError, is_out_of_memory
from .rank_sums import OrderedSums, passes

DEFAULT_KS = (10, 20, 50)
LIST_ENTRIES = 1 << 19  # limit on the total length of the lists that are ranked at once


def check_list_lengths(name: str, ks: Sequence[int], n_items: int) -> None:
    """Raise InputError for no list length K, one that is not an integer, one below 1, or one above both the number of
    items and the default lengths."""
    lengths = list(ks) if isinstance(ks, Iterable) and not isinstance(ks, (str, bytes)) else []
    if not lengths or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) for k in lengths):
        raise InputError(f"{name} = {ks!r}: must be integers, such as [20]")
    if any(not 1 <= k <= max(n_items, *DEFAULT_KS) for k in lengths):
        raise InputError(f"{name} {list(ks)}: each must be between 1 and {n_items}, the number of items")


def check_heldout(split: str) -> None:
    """Raise InputError if it is not the name of a split that models are evaluated on."""
    if split not in ("test", "val"):
        raise InputError(f"split = {split!r}: must be test or val")


def users_at_once(batch: int, k: int) -> int:
    """Number of users to rank at once: `batch`, or fewer if their lists of k items would need much memory."""
    return max(1, min(batch, LIST_ENTRIES // k))


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
        self._seen_parts: tuple[InteractionGraph | None, ...] = (None, None)
        if seen is not None:
            self.seen = self.by_place(_csr(seen))
            parts = self.seen[:, : self.n_scored], self.seen[:, self.n_scored :]
            self._seen_parts = tuple(InteractionGraph.from_scipy(part).to(device) for part in parts)

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
        rows = None if seen is None else seen.rows(index)
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


def ranking_metrics(
    users: Table,
    items: Table,
    heldout: sp.csr_array,
    ks: Sequence[int],
    seen: InteractionGraph | None = None,
    batch: int = 4096,
    popularity: np.ndarray | None = None,
    ranks: Ranks = ONE,
) -> dict[str, float]:
    """Ranking metrics, averaged over the users with a held-out item. Items are ranked as in `Ranking`.

    users [U, d], items [I, d]: embeddings on one device, tensors or sparse (`embeddings.Table`). heldout: SciPy matrix
    [U, I] of the relevant items, with the rules of `InteractionGraph.from_scipy`. ks: list lengths, each at least 1.
    seen: interactions that are excluded from the ranking. batch: maximum number of users that are ranked at once.
    popularity: int64 [I], number of training interactions of each item.

    Let R_u be the held-out items of the user and h_j = 1 if the item at rank j (from 1) is one of them, otherwise 0.

        recall     Σ_{j≤K} h_j / |R_u|
        precision  Σ_{j≤K} h_j / K
        ndcg       Σ_{j≤K} h_j / log2(j + 1), divided by the same sum for min(K, |R_u|) hits at the first ranks
        hit        1 if the list has a hit, otherwise 0
        mrr        1 / rank of the first hit, or 0

    Missing items at the end of a short list, and held-out items in `seen`, count as misses. If items are tied, each
    metric is its expected value over all their orders (McSherry and Najork, ECIR 2008).

    ranks: over several processes users, items, heldout and seen are this rank's rows. The averages have the same bits
    as in one process, because the sums are added in the same order.

    Returns {"recall@20": …} for every metric and K, and "users", the number of users. Without users all are 0.
    """
    ks = sorted(set(ks))
    if not ks or ks[0] < 1:
        raise ValueError(f"ranking_metrics: every K must be at least 1, got {list(ks)}")
    counts = np.diff(interactions(heldout, "ranking_metrics").indptr)
    sums = OrderedSums(
        int((counts > 0).sum()), users_at_once(batch, ks[-1]), (len(ks), len(METRICS)), device_of(users), ranks
    )
    for _, hits, relevant in _ranked(
        "ranking_metrics", users, items, heldout, ks[-1], seen, batch, popularity, ranks, sums.pieces
    ):
        sums.add(_chunk_metrics(hits, relevant, ks))
    means = (sums.total().mT / max(1, sums.n)).tolist()
    result = {f"{name}@{k}": means[m][j] for j, k in enumerate(ks) for m, name in enumerate(METRICS)}
    return {**result, "users": sums.n}


def user_metrics(
    users: Table,
    items: Table,
    heldout: sp.csr_array,
    k: int,
    seen: InteractionGraph | None = None,
    batch: int = 4096,
    popularity: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The metrics of each user, whose means are those of ranking_metrics: (users with a held-out item, int64 [n] in
    ascending order; {metric: float64 [n]})."""
    index, values = metrics_of_users(users, items, heldout, [k], seen, batch, popularity)
    return index, {name: values[f"{name}@{k}"] for name in METRICS}


def metrics_of_users(
    users: Table,
    items: Table,
    heldout: sp.csr_array,
    ks: Sequence[int],
    seen: InteractionGraph | None = None,
    batch: int = 4096,
    popularity: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """user_metrics at several K, from one ranking: {"recall@20": float64 [n]}."""
    ks = sorted(set(ks))
    index, values = [np.empty(0, np.int64)], [np.empty((0, len(ks), len(METRICS)))]
    for chunk, hits, relevant in _ranked("user_metrics", users, items, heldout, ks[-1], seen, batch, popularity):
        index.append(chunk.cpu().numpy())
        values.append(_chunk_metrics(hits, relevant, ks).cpu().numpy())
    columns = np.concatenate(values)
    named = {f"{name}@{k}": columns[:, j, m] for j, k in enumerate(ks) for m, name in enumerate(METRICS)}
    return np.concatenate(index), named


def _ranked(
    op: str,
    users: Table,
    items: Table,
    heldout: sp.csr_array,
    k: int,
    seen: InteractionGraph | None,
    batch: int,
    popularity: np.ndarray | None,
    ranks: Ranks = ONE,
    pieces: list[int] | None = None,
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor], Tensor]]:
    """Rank the users with a held-out item in chunks of `batch`, or of the sizes in `pieces`.

    Yields (their indices, result of _Ties.hits, number of held-out items).
    """
    if heldout.shape != (users.shape[0], items.shape[0] if ranks.size == 1 else heldout.shape[1]):
        raise ValueError(
            f"{op}: heldout has {heldout.shape[0]} users x {heldout.shape[1]} items, but there are embeddings of "
            f"{users.shape[0]} x {items.shape[0]}"
        )
    heldout = interactions(heldout, op)
    counts = np.diff(heldout.indptr)
    device = device_of(users)
    index = torch.from_numpy(np.flatnonzero(counts)).to(device)
    if not index.numel() and ranks.size == 1:
        return
    relevant = torch.from_numpy(counts.astype(np.int64)).to(device)
    ranking = Ranking(items, popularity, seen, ranks=ranks)
    ties = _Ties(ranking, users, heldout)
    chunks = index.split(users_at_once(batch, k) if pieces is None else pieces)
    for group in passes(list(chunks), k, ranks):
        ids = torch.cat([index[:0], *group])
        _, places = ranking.places(take(users, ids), ids, k)
        for chunk, part in zip(group, places.split([len(chunk) for chunk in group]), strict=True):
            yield chunk, ties.hits(chunk, part), relevant[chunk]


class _Ties:
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


def excluded(dataset: Dataset, mask_validation: bool) -> InteractionGraph:
    """The interactions that are excluded from the ranking on the test split."""
    return InteractionGraph.from_scipy(_masked(dataset, mask_validation))


def _masked(dataset: Dataset, mask_validation: bool) -> sp.csr_array:
    return dataset.train.maximum(dataset.val) if mask_validation else dataset.train


def user_metrics_on_test(
    users: Table, items: Table, dataset: Dataset, k: int, mask_validation: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """user_metrics on the test split of a dataset."""
    seen = excluded(dataset, mask_validation)
    return user_metrics(users, items, dataset.test, k, seen, popularity=item_popularity(dataset))


def split_metrics(
    users: Table,
    items: Table,
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    mask_validation: bool = False,
    batch: int = 4096,
) -> dict[str, float]:
    """ranking_metrics on the split "val" or "test" of a dataset. Training items are excluded from the ranking.

    mask_validation: also exclude the validation items when testing. If the memory is not sufficient, the batch is
    halved. Over several processes users and items are this rank's rows.
    """
    ranks = distributed.current()
    masked, heldout = _masked(dataset, split == "test" and mask_validation), getattr(dataset, split)
    if ranks.size > 1:
        first, last = ranks.span(dataset.n_users)
        masked, heldout = masked[first:last], heldout[first:last]
    seen = InteractionGraph.from_scipy(masked).to(device_of(users))
    popularity = item_popularity(dataset)
    try:
        return ranking_metrics(users, items, heldout, ks, seen, batch, popularity, ranks)
    except Exception as error:
        if batch == 1 or ranks.size > 1 or not is_out_of_memory(error):
            raise
    return ranking_metrics(users, items, heldout, ks, seen, batch // 2, popularity)


def breakdown(
    users: Table,
    items: Table,
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    mask_validation: bool = False,
    batch: int = 4096,
) -> dict[str, dict[str, float]]:
    """split_metrics for four groups of held-out pairs: those of known and of new users, and of known and of cold items.

    New users and cold items have no training interactions. The two groups of users are missing if the split has no pair
    of a new user, and those of items if it has no pair of a cold item. "pairs" is the number of held-out pairs.
    """
    heldout = getattr(dataset, split).tocoo()
    new, cold = np.diff(dataset.train.indptr) == 0, item_popularity(dataset) == 0
    sides = (("known users", "new users", new[heldout.row]), ("known items", "cold items", cold[heldout.col]))
    groups = {}
    for known_name, unknown_name, is_unknown in sides:
        for name, mask in ((known_name, ~is_unknown), (unknown_name, is_unknown)) if is_unknown.any() else ():
            pairs = (heldout.data[mask], (heldout.row[mask], heldout.col[mask]))
            part = replace(dataset, **{split: sp.coo_array(pairs, shape=heldout.shape).tocsr()})
            metrics = split_metrics(users, items, part, split, ks, mask_validation, batch)
            groups[name] = {**metrics, "pairs": int(mask.sum())}
    return groups


def item_popularity(dataset: Dataset) -> np.ndarray:
    """The number of training interactions of every item, int64 [I]."""
    return np.bincount(dataset.train.indices, minlength=dataset.n_items)


def _changes(*columns: np.ndarray) -> np.ndarray:
    """bool [N]: whether a row of the columns differs from the previous one. True for the first row."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


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


def _count(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    """The number of occurrences of each key in sorted_keys, int64."""
    above = torch.searchsorted(sorted_keys, keys, right=True)
    return above - torch.searchsorted(sorted_keys, keys)


def _chunk_metrics(hits: tuple[Tensor, Tensor], relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """The metrics of every user at every K, float64 [B, len(ks), 5]. hits: result of _Ties.hits; relevant: int64
    [B]."""
    probability, conditional = hits
    rank = torch.arange(1, probability.shape[1] + 1, dtype=torch.float64, device=probability.device)
    discount = (rank + 1).log2().reciprocal()
    n_hits, gain, ideal = probability.cumsum(1), (probability * discount).cumsum(1), discount.cumsum(0)
    no_hit = (1 - conditional).cumprod(1)  # probability of no hit up to a rank
    first_hit = F.pad(no_hit, (1, 0), value=1.0)[:, :-1] * conditional  # probability of the first hit at a rank
    reciprocal = (first_hit / rank).cumsum(1)
    columns = []
    for k in ks:
        last, best = k - 1, ideal[torch.clamp(relevant, max=k) - 1]
        values = n_hits[:, last] / relevant, n_hits[:, last] / k, gain[:, last] / best, 1 - no_hit[:, last]
        columns.append(torch.stack((*values, reciprocal[:, last]), 1))
    return torch.stack(columns, 1)
