"""Spread over seeds, and whether two systems differ on the same test users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
TESTS = (
    "Difference: the reference's mean minus the row's. p (Recall): paired t-test over the test users, each user's "
    "recall being the mean over seeds (scipy.stats.ttest_rel). 95% interval and p (NDCG): paired bootstrap over the "
    f"test users, {RESAMPLES} resamples, percentile interval, two-sided (scipy.stats.bootstrap). Not corrected for "
    "the number of comparisons; the spread over seeds is not part of either."
)


class Difference(NamedTuple):
    """Reference minus other over the same users. recall, ndcg: mean differences; recall_p: paired t-test; ndcg_low,
    ndcg_high, ndcg_p: paired bootstrap."""

    recall: float
    recall_p: float
    ndcg: float
    ndcg_low: float
    ndcg_high: float
    ndcg_p: float


def spread(values: list[float]) -> tuple[float, float]:
    """(mean, sample standard deviation; NaN of a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def compare(reference: dict[str, np.ndarray], other: dict[str, np.ndarray], seed: int = 0) -> Difference:
    """Each: metric by name, one value a test user [n], the same users in the same order. At least two users."""
    recall = reference["recall"] - other["recall"]
    ndcg = reference["ndcg"] - other["ndcg"]
    recall_p = float(stats.ttest_rel(reference["recall"], other["recall"]).pvalue) if recall.any() else 1.0
    if not ndcg.any():
        return Difference(float(recall.mean()), recall_p, 0.0, 0.0, 0.0, 1.0)
    drawn = stats.bootstrap(
        (ndcg,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=64, rng=np.random.default_rng(seed)
    )
    means = drawn.bootstrap_distribution
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    low, high = drawn.confidence_interval
    p = min(1.0, 2 * (beyond + 1) / (len(means) + 1))
    return Difference(float(recall.mean()), recall_p, float(ndcg.mean()), float(low), float(high), p)
