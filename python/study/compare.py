"""Comparison of two trained models on the same users: paired tests and confidence intervals of the differences."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..config.names import METRICS
from ..data import SPLITS
from ..errors import InputError
from ..ranking import check_list_lengths
from ..runs.list_metrics import CONFIDENCE, OF_A_LIST, list_metrics, values_of_users
from ..runs.saved_model import Model


class Comparison(NamedTuple):
    """One metric of two models. first, second: means over the users. difference: second - first. low, high: 95%
    confidence interval of the difference. p_t, p_wilcoxon: p-values, 1 if no user has a difference. better, worse:
    number of users for whom the second model is better or worse.

    >>> from mmssl_trainer import compare, configure, fit, load_data
    >>> data = load_data()
    >>> popular = fit(data, configure({"model.system": "popularity"}))
    >>> similar = fit(data, configure({"model.system": "itemknn"}))
    >>> rows, n_users = compare(popular, similar)
    >>> rows[0].metric, rows[0].difference > 0, rows[0].p_t < 0.001
    ('recall', True, True)
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    better: int
    worse: int


def compare(
    first: Model, second: Model, split: str = "test", k: int = 20, mask_validation: bool = False, lists: bool = False
) -> tuple[list[Comparison], int]:
    """(a Comparison for each metric at K, number of users). Each user with an interaction in the split is a pair.

    split, k, mask_validation: as in `evaluate`. lists: also compare novelty, diversity and the share of cold items
    (`beyond_accuracy`); whether more of these is better depends on the purpose. Raises InputError if the models are
    not from the same data and split.

    >>> from mmssl_trainer import compare, configure, fit, load_data
    >>> data = load_data()
    >>> models = [fit(data, configure({"model.system": name})) for name in ("popularity", "svd")]
    >>> rows, users = compare(*models)
    >>> rows[0].metric, rows[0].low < rows[0].difference < rows[0].high
    ('recall', True)
    """
    if split not in ("test", "val"):
        raise InputError(f"split = {split!r}: must be test or val")
    _refuse_other_data(first, second)
    check_list_lengths("k", [k], first.interactions.n_items)
    values = []
    for model in (first, second):
        users, metrics = values_of_users(model, split, [k], mask_validation)
        values.append(metrics | (list_metrics(model, split, [k], mask_validation).values if lists else {}))
    if len(users) < 2:
        raise InputError(f"the {split} split has interactions of {len(users)} users; a paired test needs at least 2")
    names = [*METRICS, *(OF_A_LIST if lists else ())]
    return [_compared(name, *(metrics[f"{name}@{k}"] for metrics in values)) for name in names], len(users)


def _compared(name: str, first: np.ndarray, second: np.ndarray) -> Comparison:
    change = second - first
    # By rounding, equal means of tied items may differ in the last digits.
    change[np.abs(change) <= 1e-12] = 0.0
    low = high = p_t = p_wilcoxon = 0.0
    if not change.any():
        p_t = p_wilcoxon = 1.0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all differences are equal
            test = stats.ttest_1samp(change, 0.0)
        interval = test.confidence_interval(CONFIDENCE)
        low, high, p_t = float(interval.low), float(interval.high), float(test.pvalue)
        p_wilcoxon = float(stats.wilcoxon(change).pvalue)
    mean = float(change.mean())
    return Comparison(
        name,
        float(first.mean()),
        float(second.mean()),
        mean,
        low,
        high,
        p_t,
        p_wilcoxon,
        int((change > 0).sum()),
        int((change < 0).sum()),
    )


def _refuse_other_data(first: Model, second: Model) -> None:
    """Raise InputError if the users of the two models are not the same pairs."""
    one, other = first.interactions, second.interactions
    for side, count in (("users", "n_users"), ("items", "n_items")):
        counts = [getattr(data, count) for data in (one, other)]
        if counts[0] != counts[1]:
            raise InputError(f"the models have {counts[0]:,} and {counts[1]:,} {side}; compare runs on the same data")
        ids = [[*map(str, getattr(data, f"original_{side}")(range(counts[0])).tolist())] for data in (one, other)]
        if ids[0] != ids[1]:
            raise InputError(f"the models have different ids of {side}; compare runs on the same data")
    for split in SPLITS:
        matrices = [getattr(data, split) for data in (one, other)]
        if not all(np.array_equal(*(getattr(matrix, name) for matrix in matrices)) for name in ("indptr", "indices")):
            raise InputError(
                f"the models have different {split} interactions; compare runs on the same split of the data"
            )
    if one.fingerprint != other.fingerprint:
        raise InputError(
            f"the data of the models have the fingerprints {one.fingerprint[:16]} and {other.fingerprint[:16]}: the "
            "interactions are the same, but not the features; compare runs on the same data"
        )
