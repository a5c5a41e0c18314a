"""Properties of the lists that a model recommends, beyond their accuracy: coverage, novelty, diversity and the share of
cold items; and confidence intervals of means over users. docs/evaluation.md has the formulas and their sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from ..embeddings import take
from ..ranking import Ranking, excluded, item_popularity, metrics_of_users, users_at_once
from .recommend import id_hashes, popularity_of
from .saved_model import Model

OF_A_LIST = ("novelty", "diversity", "cold_share")  # have a value for each user; coverage is one of all lists
CONFIDENCE = 0.95
_ENTRIES = 1 << 24  # of a block of lists x users


class ListMetrics(NamedTuple):
    """users: int64 [n], those with a held-out item. values: {"novelty@20": float64 [n]} for the metrics OF_A_LIST and
    every K. coverage: {"coverage@20": share of all items that are in a list}."""

    users: np.ndarray
    values: dict[str, np.ndarray]
    coverage: dict[str, float]

    def means(self) -> dict[str, float]:
        """The coverage, and the means over the users; 0 without users."""
        return self.coverage | {name: float(each.mean()) if len(each) else 0.0 for name, each in self.values.items()}


def list_metrics(
    model: Model, split: str, ks: Sequence[int], mask_validation: bool = False, batch: int = 4096
) -> ListMetrics:
    """The metrics of the lists that `recommend` gives the users with an interaction in the split."""
    data, ks = model.interactions, sorted(set(ks))
    users = np.flatnonzero(np.diff(getattr(data, split).indptr))
    labels = id_hashes(data.original_items(np.arange(data.n_items)))
    seen = excluded(data, split == "test" and mask_validation)
    ranking = Ranking(model.items, popularity_of(model), seen, labels)
    of_items = _OfItems(data.train)
    chunks, covered = [], {k: np.zeros(data.n_items, bool) for k in ks}
    for chunk in torch.from_numpy(users).split(users_at_once(min(batch, of_items.at_once), ks[-1])):
        lists = ranking.best(take(model.users, chunk), chunk, ks[-1])[1].numpy()
        chunks.append([of_items.metrics(lists[:, :k]) for k in ks])
        for k in ks:
            covered[k][lists[:, :k][lists[:, :k] >= 0]] = True
    values = {
        f"{name}@{k}": np.concatenate([np.empty(0), *(chunk[at][name] for chunk in chunks)])
        for at, k in enumerate(ks)
        for name in OF_A_LIST
    }
    return ListMetrics(users, values, {f"coverage@{k}": float(covered[k].mean()) for k in ks})


class _OfItems:
    """What the metrics need to know of each item, from the training interactions."""

    def __init__(self, train: sp.csr_array) -> None:
        counts = np.bincount(train.indices, minlength=train.shape[1])
        n_users = max(1, int((np.diff(train.indptr) > 0).sum()))
        self.novelty = np.log2(n_users / np.maximum(counts, 1))
        self.cold = counts == 0
        unit = train.T.tocsr().astype(np.float64)
        unit.data = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts)
        self.unit, self.at_once = unit, max(1, _ENTRIES // max(1, train.shape[0]))

    def metrics(self, lists: np.ndarray) -> dict[str, np.ndarray]:
        """{metric: float64 [B]} of lists of items [B, k], −1 where an item is missing."""
        there = lists >= 0
        count = there.sum(1)
        places = np.maximum(count, 1)
        items = lists[there]
        chosen = sp.csr_array((np.ones(len(items)), items, np.append(0, count.cumsum())), (len(lists), len(self.cold)))
        # Σ over pairs i ≠ j of cos(i, j) = |Σ unit vectors|² − Σ |unit vectors|², which are 1, or 0 for a cold item.
        square = (chosen @ self.unit).power(2).sum(1) - chosen @ (~self.cold).astype(np.float64)
        pairs = count * (count - 1)
        return {
            "novelty": chosen @ self.novelty / places,
            "diversity": np.where(pairs > 0, 1 - square / np.maximum(pairs, 1), 0.0),
            "cold_share": chosen @ self.cold.astype(np.float64) / places,
        }


def values_of_users(
    model: Model, split: str, ks: Sequence[int], mask_validation: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(users with an interaction in the split, {"recall@20": float64 [n]} of the ranking metrics)."""
    data = model.interactions
    seen = excluded(data, split == "test" and mask_validation)
    heldout, popularity = getattr(data, split), item_popularity(data)
    return metrics_of_users(model.users, model.items, heldout, ks, seen, popularity=popularity)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The confidence interval of the mean by Student's t distribution, as `scipy.stats.ttest_1samp` gives it. Of fewer
    than two values: the mean itself."""
    from scipy import stats  # takes half a second to import, which training does without

    if len(values) < 2:
        return (float(values.mean()),) * 2 if len(values) else (0.0, 0.0)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean - half, mean + half
