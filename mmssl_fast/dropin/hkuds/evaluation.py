"""The released code's all-ranking evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..ranking import best_unseen, hits_of, pair_keys

ROWS = 4096  # users ranked at once
SCORES = 1 << 24  # in memory at a time for the AUC


def evaluate(
    ua_embeddings: Tensor,
    ia_embeddings: Tensor,
    users: Sequence[int],
    relevant: Mapping[int, Sequence[int]],
    train_items: Mapping[int, Sequence[int]],
    ks: Sequence[int],
    auc: bool = False,
) -> dict[str, np.ndarray | float]:
    """Equals the released ``test_torch``: means over `users` of the metrics of their best unseen items by dot product.

    The metrics are precision@K, recall@K (hits divided by the number of held-out items), hit_ratio@K and ndcg@K. The
    ideal list of this ndcg has as many hits as were found within the largest of `ks`, instead of the usual
    min(K, ``|relevant|``). Equal scores are ordered by item, the lower one first.

    Args:
        ua_embeddings [U, d], ia_embeddings [I, d].
        users: ids, each with its held-out items in `relevant`. A user without training items is missing in train_items.
        ks: list lengths.
        auc: also compute the area under the ROC curve over all unseen items (test_flag "full"). Otherwise it is 0.

    Returns:
        {"precision", "recall", "ndcg", "hit_ratio": float64 [len(ks)], "auc": float}.

    Example:
        >>> import torch
        >>> means = evaluate(torch.eye(2), torch.eye(2), [0, 1], {0: [0], 1: [0]}, {}, ks=[1])
        >>> means["recall"].tolist()
        [0.5]
    """
    if not len(ks) or min(ks) < 1:
        raise ValueError(f"evaluate: ks must be list lengths of at least 1, got {list(ks)}")
    n_items, longest = ia_embeddings.shape[0], min(max(ks), ia_embeddings.shape[0])
    sums, area = np.zeros((4, len(ks))), 0.0
    for begin in range(0, len(users), ROWS):
        batch = users[begin : begin + ROWS]
        u = ua_embeddings[torch.as_tensor(batch, device=ua_embeddings.device)]
        seen = pair_keys([train_items.get(user, ()) for user in batch], n_items)
        wanted = pair_keys([relevant[user] for user in batch], n_items)
        counts = np.array([len(relevant[user]) for user in batch])
        best = best_unseen(u, ia_embeddings, seen, longest)
        hits = hits_of(best, wanted, n_items)
        sums += _metrics(hits, best >= 0, counts, ks)
        area += _areas(u, ia_embeddings, seen, wanted) if auc else 0.0
    means = dict(zip(("precision", "recall", "ndcg", "hit_ratio"), sums / max(1, len(users)), strict=True))
    return {**means, "auc": area / max(1, len(users))}


def _metrics(hits: np.ndarray, ranked: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """[4, len(ks)]: sums over users of the four metrics. hits, ranked: bool [B, longest], whether the item at that rank
    is relevant, and whether there is an item; relevant: int [B]."""
    gain = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate(([0.0], gain.cumsum()))[np.minimum.outer(hits.sum(1), ks)]
    columns = []
    for k, best in zip(ks, ideal.T, strict=True):
        hits_at_k = hits[:, :k].sum(1)
        precision = hits_at_k / ranked[:, :k].sum(1).clip(1)
        recall = hits_at_k / relevant.clip(1)
        ndcg = (hits[:, :k] * gain[:k]).sum(1) / np.where(best > 0, best, 1)
        columns.append([x.sum() for x in (precision, recall, ndcg, hits_at_k > 0)])
    return np.array(columns).T


def _areas(u: Tensor, v: Tensor, seen: np.ndarray, wanted: np.ndarray) -> float:
    """The sum over users of the AUC over unseen items, from the ranks of the relevant items. It is 0 for a user
    without relevant items or without irrelevant items."""
    n_items, total = v.shape[0], 0.0
    pairs = torch.from_numpy(np.setdiff1d(wanted, seen)).to(u.device)
    step = max(1, SCORES // max(1, n_items))
    for begin in range(0, u.shape[0], step):
        scores = u[begin : begin + step] @ v.T
        inside = torch.from_numpy(seen[(seen >= begin * n_items) & (seen < (begin + step) * n_items)]).to(u.device)
        scores.view(-1)[inside - begin * n_items] = torch.nan
        unseen = scores.isnan().logical_not().sum(1)
        block = pairs[(pairs >= begin * n_items) & (pairs < (begin + step) * n_items)] - begin * n_items
        row, score = block // n_items, scores.view(-1)[block]
        positives, ranks = (scores.new_zeros(len(scores), dtype=torch.float64) for _ in range(2))
        positives.index_add_(0, row, torch.ones_like(score, dtype=torch.float64))
        for chunk in torch.arange(len(block), device=u.device).split(step):
            others, relevant = scores[row[chunk]], score[chunk, None]
            rank = (others < relevant).sum(1) + ((others == relevant).sum(1) + 1) / 2
            ranks.index_add_(0, row[chunk], rank.double())
        negatives = unseen - positives
        area = (ranks - positives * (positives + 1) / 2) / (positives * negatives).clamp(min=1)
        total += float(area[(positives > 0) & (negatives > 0)].sum())
    return total
