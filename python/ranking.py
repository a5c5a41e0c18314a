"""All-ranking evaluation: every item a user has not interacted with in training is ranked, none is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, cosine_topk
from mmssl_fast.graph import interactions

from .data import Dataset
from .errors import InputError, is_out_of_memory

METRICS = ("recall", "precision", "ndcg", "hit", "mrr")
DEFAULT_KS = (10, 20, 50)
KEY_ROWS = 1 << 16  # item rows hashed at once
LIST_ENTRIES = 1 << 19  # of the lists ranked at once: long ones for fewer users


def check_list_lengths(name: str, ks: Sequence[int], n_items: int) -> None:
    """Raise InputError for a list length K below 1, or above both the catalogue and the default lengths."""
    if any(not 1 <= k <= max(n_items, *DEFAULT_KS) for k in ks):
        raise InputError(f"{name} {list(ks)}: each must be between 1 and {n_items}, the number of items")


def users_at_once(batch: int, k: int) -> int:
    """At most `batch` users, fewer where their lists of k items would take much memory."""
    return max(1, min(batch, LIST_ENTRIES // k))


class Ranking:
    """The order in which a user gets the items: the same rule for validation, testing and recommending.

    1. Items come by score, users @ items.T, highest first.
    2. Equal scores: the item with more training interactions first. A user whose embedding is zero, such as one without
       training interactions, scores every item 0 and so gets the most popular items.
    3. Items whose embedding is zero come after all others, the one with more training interactions first: the system
       knows nothing of them, so their score of 0 means nothing.
    4. Items that are still equal and differ in their embeddings: by a hash of the embedding. Items with the same
       embedding, or any items of equal popularity for a user whose embedding is zero, are tied. Metrics are expected
       values over all orders of tied items; a list shows them by `labels`.

    No step looks at an item's index, so renumbering users or items changes neither metrics nor lists.

    items: [I, d] embeddings. popularity: int64 [I], training interactions of each item; None: all equal. seen: the
    interactions that are left out of the ranking. labels: uint64 [I], what puts tied items in order in a list; None:
    their index.
    """

    def __init__(
        self,
        items: Tensor,
        popularity: np.ndarray | None = None,
        seen: InteractionGraph | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        n_items = items.shape[0]
        popularity = np.zeros(n_items, np.int64) if popularity is None else np.asarray(popularity, np.int64)
        labels = np.zeros(n_items, np.uint64) if labels is None else labels
        unscored, keys = (items == 0).all(1).cpu().numpy(), _row_keys(items)
        order = np.lexsort((labels, keys, -popularity, unscored))
        # Groups of tied items, by place: equal embeddings; for users whose embedding is zero, equal popularity alone.
        other_popularity = _changes(popularity[order], unscored[order])
        rows, popular = np.cumsum(other_popularity | _changes(keys[order])), np.cumsum(other_popularity)
        n_rows = int(rows.max(initial=0))
        groups = np.stack([rows - 1, popular - 1 + n_rows])
        self.n_scored = n_items - int(unscored.sum())
        self.order = torch.from_numpy(order).to(items.device)
        self.groups = torch.from_numpy(groups).to(items.device)
        self.sizes = torch.from_numpy(np.bincount(groups.ravel())).to(items.device)
        self.rows_tied = n_rows < n_items
        self.items = items[self.order[: self.n_scored]]
        self.seen = None if seen is None else self.by_place(_csr(seen))
        self._seen_parts = (None, None)
        if seen is not None:
            parts = self.seen[:, : self.n_scored], self.seen[:, self.n_scored :]
            self._seen_parts = tuple(InteractionGraph.from_scipy(part).to(items.device) for part in parts)

    def best(self, users: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The first k items for users [B, d], whose rows of `seen` are index [B]: (scores [B, k], items int64 [B, k]).

        Where fewer than k items are left, item −1 and score −inf.
        """
        scores, places = self.places(users, index, k)
        return scores, torch.where(places < 0, -1, self.order[places])

    def places(self, users: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`best` with places in the order of popularity instead of items; −1 stays −1."""
        scores, places = self._topk(users, self.items, k, 0, index)
        short = (places < 0).any(1).nonzero().flatten()
        n_unscored = len(self.order) - self.n_scored
        if not (n_unscored and len(short)):
            return scores, places
        blank = users.new_zeros(max(len(short), n_unscored), 1)
        more_scores, more = self._topk(blank[: len(short)], blank[:n_unscored], k, 1, index[short])
        both = torch.cat([places[short], torch.where(more < 0, -1, more + self.n_scored)], 1)
        kept = (both < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        places[short] = both.gather(1, kept)
        scores[short] = torch.cat([scores[short], more_scores], 1).gather(1, kept)
        return scores, places

    def _topk(self, users: Tensor, items: Tensor, k: int, part: int, index: Tensor) -> tuple[Tensor, Tensor]:
        seen, least = self._seen_parts[part], min(k, len(items))
        rows = None if seen is None else seen.rows(index)
        scores, places = cosine_topk(users, items, least, seen=rows, kind="dot")
        return F.pad(scores, (0, k - least), value=-torch.inf), F.pad(places, (0, k - least), value=-1)

    def by_place(self, matrix: sp.csr_array) -> sp.csr_array:
        """The matrix [U, I] with its columns in this order."""
        place = np.empty(len(self.order), np.int64)
        place[self.order.cpu().numpy()] = np.arange(len(place))
        moved = sp.csr_array((matrix.data, place[matrix.indices], matrix.indptr), shape=matrix.shape)
        moved.sort_indices()
        return moved


def ranking_metrics(
    users: Tensor,
    items: Tensor,
    heldout: sp.csr_array,
    ks: Sequence[int],
    seen: InteractionGraph | None = None,
    batch: int = 4096,
    popularity: np.ndarray | None = None,
) -> dict[str, float]:
    """Averages over the users with a held-out item of the metrics of their K best items in the order of `Ranking`.

    users [U, d], items [I, d]: embeddings on one device. heldout: SciPy matrix [U, I] of the relevant items, read as
    `InteractionGraph.from_scipy` reads one. ks: list lengths, each at least 1. seen: interactions left out of the
    ranking. batch: users ranked at once, fewer where a K above 128 makes their lists long. popularity: int64 [I],
    training interactions of each item, which decide between equal scores; None: nothing decides. Where fewer than K
    items are left, the missing places count as misses.

    With R_u the user's held-out items and h_j = 1 where the item at rank j (from 1) is among them:
    recall Σ_{j≤K} h_j / |R_u|; precision Σ_{j≤K} h_j / K; ndcg Σ_{j≤K} h_j / log2(j + 1) over the same sum of the ideal
    list, min(K, |R_u|) hits in front; hit: whether any; mrr: 1 / rank of the first hit, 0 without one. A held-out item
    that `seen` leaves out counts as missed. Where items are tied each metric is its expected value over all orders of
    them (McSherry and Najork, ECIR 2008).

    Returns {"recall@20": …, …} for every metric and K, and "users", the number averaged over; where no user has a
    held-out item all are 0.
    """
    ks = sorted(set(ks))
    if not ks or ks[0] < 1:
        raise ValueError(f"ranking_metrics: every K must be at least 1, got {list(ks)}")
    sums = torch.zeros(len(METRICS), len(ks), dtype=torch.float64, device=users.device)
    who = 0
    for chunk, hits, relevant in _ranked("ranking_metrics", users, items, heldout, ks[-1], seen, batch, popularity):
        who += chunk.numel()
        sums += _chunk_metrics(hits, relevant, ks).sum(0).mT
    means = (sums / max(1, who)).tolist()
    result = {f"{name}@{k}": means[at][j] for j, k in enumerate(ks) for at, name in enumerate(METRICS)}
    return {**result, "users": who}


def user_metrics(
    users: Tensor,
    items: Tensor,
    heldout: sp.csr_array,
    k: int,
    seen: InteractionGraph | None = None,
    batch: int = 4096,
    popularity: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What ranking_metrics averages: (the users with a held-out item, int64 ascending [n]; each metric at k for each of
    them, float64 [n])."""
    who, values = [np.empty(0, np.int64)], [np.empty((0, len(METRICS)))]
    for chunk, hits, relevant in _ranked("user_metrics", users, items, heldout, k, seen, batch, popularity):
        who.append(chunk.cpu().numpy())
        values.append(_chunk_metrics(hits, relevant, [k])[:, 0].cpu().numpy())
    columns = np.concatenate(values).T
    return np.concatenate(who), dict(zip(METRICS, columns, strict=True))


def _ranked(
    op: str,
    users: Tensor,
    items: Tensor,
    heldout: sp.csr_array,
    k: int,
    seen: InteractionGraph | None,
    batch: int,
    popularity: np.ndarray | None,
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor], Tensor]]:
    """At most `batch` users with a held-out item at a time: (their ids, `_Ties.hits` of their k best, how many are held
    out)."""
    if heldout.shape != (users.shape[0], items.shape[0]):
        raise ValueError(
            f"{op}: held-out pairs of {heldout.shape[0]} users x {heldout.shape[1]} items, "
            f"embeddings of {users.shape[0]} x {items.shape[0]}"
        )
    heldout = interactions(heldout, op)
    counts = np.diff(heldout.indptr)
    who = torch.from_numpy(np.flatnonzero(counts)).to(users.device)
    if not who.numel():
        return
    relevant = torch.from_numpy(counts.astype(np.int64)).to(users.device)
    ranking = Ranking(items, popularity, seen)
    ties = _Ties(ranking, users, heldout)
    for chunk in who.split(users_at_once(batch, k)):
        _, places = ranking.places(users[chunk], chunk, k)
        yield chunk, ties.hits(chunk, places), relevant[chunk]


class _Ties:
    """How likely each place of a list holds a held-out item when tied items are in random order."""

    def __init__(self, ranking: Ranking, users: Tensor, heldout: sp.csr_array) -> None:
        self.ranking, self.n_places = ranking, len(ranking.order)
        self.zero = (users == 0).all(1)
        held = ranking.by_place(heldout)
        self.wanted = self._keys(held, np.arange(self.n_places), self.n_places)
        self.any = ranking.rows_tied or bool(self.zero.any())
        if self.any:
            self.n_groups = len(ranking.sizes)
            unseen = held if ranking.seen is None else held - held.multiply(ranking.seen)
            unseen.eliminate_zeros()
            self.held, self.seen = (
                None if matrix is None else self._keys(matrix, None, self.n_groups) for matrix in (unseen, ranking.seen)
            )

    def _keys(self, matrix: sp.csr_array, columns: np.ndarray | None, width: int) -> Tensor:
        """Sorted user * width + column of every entry; columns None: the entry's group of tied items."""
        matrix = sp.csr_array(matrix)
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        if columns is None:
            zero, (of_rows, popular) = self.zero.cpu().numpy(), self.ranking.groups.cpu().numpy()
            column = np.where(zero[rows], popular[matrix.indices], of_rows[matrix.indices])
        else:
            column = columns[matrix.indices]
        return torch.from_numpy(np.sort(rows * width + column)).to(self.zero.device)

    def hits(self, chunk: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of users and their best places [B, k], float64 [B, k] each: the probability that the item at a rank is held
        out; the same where the ranks before it, within its group of tied items, hold none."""
        plain = (_count(self.wanted, chunk[:, None] * self.n_places + places) > 0) & (places >= 0)
        plain = plain.to(torch.float64)
        if not self.any:
            return plain, plain
        rows, popular = self.ranking.groups[:, places.clamp(min=0)]
        group = torch.where(self.zero[chunk][:, None], popular, rows)
        tied = (places >= 0) & (self.ranking.sizes[group] > 1)
        keys = chunk[:, None] * self.n_groups + group
        members = self.ranking.sizes[group].to(torch.float64)
        if self.seen is not None:
            members -= _count(self.seen, keys)
        held = _count(self.held, keys).to(torch.float64)
        rank = torch.arange(places.shape[1], device=places.device).expand_as(places)
        begins = torch.ones_like(tied)
        begins[:, 1:] = group[:, 1:] != group[:, :-1]
        before = rank - torch.where(begins, rank, 0).cummax(1).values  # ranks of the same group
        chance, next_one = held / members, (held / (members - before)).clamp(max=1)
        return torch.where(tied, chance, plain), torch.where(tied, next_one, plain)


def split_metrics(
    users: Tensor,
    items: Tensor,
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    mask_validation: bool = False,
    batch: int = 4096,
) -> dict[str, float]:
    """ranking_metrics of embeddings on a dataset's split "val" or "test". Training items are left out of the ranking;
    validation items too when testing with mask_validation. Where memory does not suffice, once more with half the
    batch."""
    masked = dataset.train
    if split == "test" and mask_validation:
        masked = masked.maximum(dataset.val)
    seen, popularity = InteractionGraph.from_scipy(masked).to(users.device), item_popularity(dataset)
    try:
        return ranking_metrics(users, items, getattr(dataset, split), ks, seen, batch, popularity)
    except Exception as error:
        if batch == 1 or not is_out_of_memory(error):
            raise
    return ranking_metrics(users, items, getattr(dataset, split), ks, seen, batch // 2, popularity)


def breakdown(
    users: Tensor,
    items: Tensor,
    dataset: Dataset,
    split: str,
    ks: Sequence[int],
    mask_validation: bool = False,
    batch: int = 4096,
) -> dict[str, dict[str, float]]:
    """split_metrics of "known users" and "new users" apart, and with the held-out pairs of "known items" or of "cold
    items" alone as the relevant ones; "pairs" counts the held-out pairs.

    A new user and a cold item have no training interaction. Both groups of a side are there where the split has a pair
    of its new or cold ones; a split without any gives {}.
    """
    heldout = getattr(dataset, split).tocoo()
    new, cold = np.diff(dataset.train.indptr) == 0, item_popularity(dataset) == 0
    sides = (("known users", "new users", new[heldout.row]), ("known items", "cold items", cold[heldout.col]))
    found = {}
    for known, other, chosen in sides:
        for name, kept in ((known, ~chosen), (other, chosen)) if chosen.any() else ():
            pairs = (heldout.data[kept], (heldout.row[kept], heldout.col[kept]))
            part = replace(dataset, **{split: sp.coo_array(pairs, shape=heldout.shape).tocsr()})
            metrics = split_metrics(users, items, part, split, ks, mask_validation, batch)
            found[name] = {**metrics, "pairs": int(kept.sum())}
    return found


def item_popularity(dataset: Dataset) -> np.ndarray:
    """Training interactions of every item, int64 [I]."""
    return np.bincount(dataset.train.indices, minlength=dataset.n_items)


def _row_keys(rows: Tensor) -> np.ndarray:
    """A 64-bit hash of every row of rows [N, d], int64 [N]: equal for equal rows."""
    bits = torch.int64 if rows.element_size() == 8 else torch.int32
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator).to(rows.device) * 2 + 1
    parts = [
        ((part + 0.0).contiguous().view(bits).to(torch.int64) * factors).sum(1)  # + 0.0: one zero, not two
        for part in rows.split(KEY_ROWS)
    ]
    return torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.int64)


def _changes(*columns: np.ndarray) -> np.ndarray:
    """bool [N]: whether a row of the columns differs from the one before it; the first does."""
    changed = np.ones(len(columns[0]), bool)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _csr(graph: InteractionGraph) -> sp.csr_array:
    """The graph's edges as a SciPy matrix of ones."""
    entries = np.ones(graph.nnz, np.float32), graph.col.cpu().numpy(), graph.crow.cpu().numpy()
    return sp.csr_array(entries, shape=(graph.n_users, graph.n_items))


def _count(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    """How often each key is among sorted_keys, int64 like keys."""
    above = torch.searchsorted(sorted_keys, keys, right=True)
    return above - torch.searchsorted(sorted_keys, keys)


def _chunk_metrics(hits: tuple[Tensor, Tensor], relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Every user's metrics at every K; hits as _Ties.hits gives them, relevant int64 [B] → float64 [B, len(ks), 5]."""
    chance, next_one = hits
    rank = torch.arange(1, chance.shape[1] + 1, dtype=torch.float64, device=chance.device)
    discount = (rank + 1).log2().reciprocal()
    found, gain, ideal = chance.cumsum(1), (chance * discount).cumsum(1), discount.cumsum(0)
    none_yet = (1 - next_one).cumprod(1)  # the probability of no hit up to a rank
    first = F.pad(none_yet, (1, 0), value=1.0)[:, :-1] * next_one  # of the first hit at a rank
    reciprocal = (first / rank).cumsum(1)
    columns = []
    for k in ks:
        at = k - 1
        best = ideal[torch.clamp(relevant, max=k) - 1]
        columns.append(
            torch.stack(
                (
                    found[:, at] / relevant,
                    found[:, at] / k,
                    gain[:, at] / best,
                    1 - none_yet[:, at],
                    reciprocal[:, at],
                ),
                1,
            )
        )
    return torch.stack(columns, 1)
