"""Ranking metrics on the validation and test split of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from mmssl_fast import InteractionGraph, distributed

from ..data import Dataset
from ..embeddings import Table, device_of
from ..errors import is_out_of_memory
from .metrics import ranking_metrics, user_metrics


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
    own = slice(*ranks.span(dataset.n_users)) if ranks.size > 1 else slice(None)
    masked, heldout = _masked(dataset, split == "test" and mask_validation, own), getattr(dataset, split)
    if ranks.size > 1:
        heldout = heldout[own]
    seen = InteractionGraph.from_scipy(_of_users(masked, np.diff(heldout.indptr) > 0)).to(device_of(users))
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


def user_metrics_on_test(
    users: Table, items: Table, dataset: Dataset, k: int, mask_validation: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """user_metrics on the test split of a dataset."""
    seen = excluded(dataset, mask_validation)
    return user_metrics(users, items, dataset.test, k, seen, popularity=item_popularity(dataset))


def excluded(dataset: Dataset, mask_validation: bool) -> InteractionGraph:
    """The interactions that are excluded from the ranking on the test split."""
    return InteractionGraph.from_scipy(_masked(dataset, mask_validation))


def _masked(dataset: Dataset, mask_validation: bool, users: slice = slice(None)) -> sp.csr_array:
    """The interactions of these users that are excluded."""
    train, val = (dataset.train, dataset.val) if users == slice(None) else (dataset.train[users], dataset.val[users])
    return train.maximum(val) if mask_validation else train


def _of_users(matrix: sp.csr_array, mask: np.ndarray) -> sp.csr_array:
    """The matrix with the rows of these users, bool [U]; the others are empty."""
    counts = np.diff(matrix.indptr)
    indptr = np.concatenate([[0], np.cumsum(np.where(mask, counts, 0))])
    kept = np.repeat(mask, counts)
    return sp.csr_array((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)


def item_popularity(dataset: Dataset) -> np.ndarray:
    """The number of training interactions of every item, int64 [I]."""
    return dataset.item_degrees()
