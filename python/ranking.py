"""All-ranking evaluation: every item a user has not interacted with in training is ranked, none is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, cosine_topk
from mmssl_fast.graph import interactions

from .data import Dataset
from .errors import InputError, is_out_of_memory

METRICS = ("recall", "precision", "ndcg", "hit", "mrr")
DEFAULT_KS = (10, 20, 50)
LIST_ENTRIES = 1 << 19  # of the lists ranked at once: long ones for fewer users


def check_list_lengths(name: str, ks: Sequence[int], n_items: int) -> None:
    """Raise InputError for a list length K below 1, or above both the catalogue and the default lengths."""
    if any(not 1 <= k <= max(n_items, *DEFAULT_KS) for k in ks):
        raise InputError(f"{name} {list(ks)}: each must be between 1 and {n_items}, the number of items")


def users_at_once(batch: int, k: int) -> int:
    """At most `batch` users, fewer where their lists of k items would take much memory."""
    return max(1, min(batch, LIST_ENTRIES // k))


def ranking_metrics(
    users: Tensor,
    items: Tensor,
    heldout: sp.csr_array,
    ks: Sequence[int],
    seen: InteractionGraph | None = None,
    batch: int = 4096,
) -> dict[str, float]:
    """Averages over the users with a held-out item of the metrics of their K best items by users @ items.T.

    users [U, d], items [I, d]: embeddings on one device. heldout: SciPy matrix [U, I] of the relevant items, read as
    `InteractionGraph.from_scipy` reads one. ks: list lengths, each at least 1. seen: interactions left out of the
    ranking. batch: users ranked at once, fewer where a K above 128 makes their lists long. Where fewer than K items are
    left, the missing places count as misses.

    With R_u the user's held-out items and h_j = 1 where the item at rank j (from 1) is among them:
    recall Σ_{j≤K} h_j / |R_u|; precision Σ_{j≤K} h_j / K; ndcg Σ_{j≤K} h_j / log2(j + 1) over the same sum of the ideal
    list, min(K, |R_u|) hits in front; hit: whether any; mrr: 1 / rank of the first hit, 0 without one. A held-out item
    that `seen` leaves out counts as missed.

    Returns {"recall@20": …, …} for every metric and K, and "users", the number averaged over; where no user has a
    held-out item all are 0.
    """
    ks = sorted(set(ks))
    if not ks or ks[0] < 1:
        raise ValueError(f"ranking_metrics: every K must be at least 1, got {list(ks)}")
    sums = torch.zeros(len(METRICS), len(ks), dtype=torch.float64, device=users.device)
    who = 0
    for chunk, hits, relevant in _ranked("ranking_metrics", users, items, heldout, ks[-1], seen, batch):
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
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What ranking_metrics averages: (the users with a held-out item, int64 ascending [n]; each metric at k for each of
    them, float64 [n])."""
    who, values = [np.empty(0, np.int64)], [np.empty((0, len(METRICS)))]
    for chunk, hits, relevant in _ranked("user_metrics", users, items, heldout, k, seen, batch):
        who.append(chunk.cpu().numpy())
        values.append(_chunk_metrics(hits, relevant, [k])[:, 0].cpu().numpy())
    columns = np.concatenate(values).T
    return np.concatenate(who), dict(zip(METRICS, columns, strict=True))


def _ranked(
    op: str, users: Tensor, items: Tensor, heldout: sp.csr_array, k: int, seen: InteractionGraph | None, batch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """At most `batch` users with a held-out item at a time: (their ids, whether each of their k best is held out,
    bool [B, k], how many are held out)."""
    if heldout.shape != (users.shape[0], items.shape[0]):
        raise ValueError(
            f"{op}: held-out pairs of {heldout.shape[0]} users x {heldout.shape[1]} items, "
            f"embeddings of {users.shape[0]} x {items.shape[0]}"
        )
    heldout = interactions(heldout, op)
    device, n_items = users.device, items.shape[0]
    counts = np.diff(heldout.indptr)
    who = torch.from_numpy(np.flatnonzero(counts)).to(device)
    relevant = torch.from_numpy(counts.astype(np.int64)).to(device)
    rows = torch.from_numpy(np.repeat(np.arange(len(counts), dtype=np.int64), counts)).to(device)
    wanted = torch.sort(rows * n_items + torch.from_numpy(heldout.indices.astype(np.int64)).to(device)).values
    for chunk in who.split(users_at_once(batch, k)) if who.numel() else ():
        blocked = None if seen is None else seen.rows(chunk)
        _, best = cosine_topk(users[chunk], items, k, seen=blocked, kind="dot")
        yield chunk, _is_member(chunk[:, None] * n_items + best, wanted) & (best >= 0), relevant[chunk]


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
    seen = InteractionGraph.from_scipy(masked).to(users.device)
    try:
        return ranking_metrics(users, items, getattr(dataset, split), ks, seen, batch)
    except Exception as error:
        if batch == 1 or not is_out_of_memory(error):
            raise
    return ranking_metrics(users, items, getattr(dataset, split), ks, seen, batch // 2)


def _is_member(keys: Tensor, sorted_keys: Tensor) -> Tensor:
    """bool like keys: whether each is among sorted_keys (not empty)."""
    at = torch.searchsorted(sorted_keys, keys).clamp(max=sorted_keys.numel() - 1)
    return sorted_keys[at] == keys


def _chunk_metrics(hits: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Every user's metrics at every K; hits bool [B, max K], relevant int64 [B] → float64 [B, len(ks), 5]."""
    longest = hits.shape[1]
    h = hits.to(torch.float64)
    rank = torch.arange(1, longest + 1, dtype=torch.float64, device=hits.device)
    discount = (rank + 1).log2().reciprocal()
    found, gain, ideal = h.cumsum(1), (h * discount).cumsum(1), discount.cumsum(0)
    reciprocal = (h / rank).cummax(1).values  # the first hit has the largest 1/rank
    columns = []
    for k in ks:
        at = k - 1
        best = ideal[torch.clamp(relevant, max=k) - 1]
        columns.append(torch.stack((
            found[:, at] / relevant, found[:, at] / k, gain[:, at] / best, (found[:, at] > 0).to(torch.float64),
            reciprocal[:, at],
        ), 1))  # fmt: skip
    return torch.stack(columns, 1)
