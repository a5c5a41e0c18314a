"""Ranking metrics of embeddings, from the rank of the held-out items among all items without a training interaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph
from mmssl_fast.distributed import ONE, Ranks
from mmssl_fast.graph import interactions

from ..config.names import METRICS
from ..embeddings import Table, device_of, take
from .arguments import users_at_once
from .order import Ranking
from .sums import OrderedSums, passes
from .ties import Ties


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

    Yields (their indices, result of Ties.hits, number of held-out items).
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
    ties = Ties(ranking, users, heldout)
    chunks = index.split(users_at_once(batch, k) if pieces is None else pieces)
    for group in passes(list(chunks), k, ranks):
        ids = torch.cat([index[:0], *group])
        _, places = ranking.places(take(users, ids), ids, k)
        for chunk, part in zip(group, places.split([len(chunk) for chunk in group]), strict=True):
            yield chunk, ties.hits(chunk, part), relevant[chunk]


def _chunk_metrics(hits: tuple[Tensor, Tensor], relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """The metrics of every user at every K, float64 [B, len(ks), 5]. hits: result of Ties.hits; relevant: int64
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
