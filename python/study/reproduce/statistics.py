"""Standard deviation over seeds, and significance tests between two systems on the same test users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 2000
TESTS = (
    "Difference: mean of the reference minus mean of the row. p (Recall): paired t-test over the test users, with the "
    "mean over seeds for each user (scipy.stats.ttest_rel). 95% interval and p (NDCG): two-sided paired bootstrap over "
    f"the test users with {RESAMPLES} resamples and percentile intervals (scipy.stats.bootstrap). The tests do not "
    "account "
    "for the variance over seeds or for multiple comparisons."
)


class Difference(NamedTuple):
    """The difference reference minus other over the same users.

    recall, ndcg: mean differences; recall_p: from a paired t-test; ndcg_low, ndcg_high, ndcg_p: from a paired
    bootstrap.
    """

    recall: float
    recall_p: float
    ndcg: float
    ndcg_low: float
    ndcg_high: float
    ndcg_p: float


def spread(values: list[float]) -> tuple[float, float]:
    """(mean, sample standard deviation). The deviation of a single value is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def compare(reference: dict[str, np.ndarray], other: dict[str, np.ndarray], seed: int = 0) -> Difference:
    """Compare two systems. reference, other: metrics by name with one value per test user [n], the same users in the
    same order; n ≥ 2. seed: of the bootstrap."""
    recall = reference["recall"] - other["recall"]
    ndcg = reference["ndcg"] - other["ndcg"]
    recall_p = float(stats.ttest_rel(reference["recall"], other["recall"]).pvalue) if recall.any() else 1.0
    if not ndcg.any():
        return Difference(float(recall.mean()), recall_p, 0.0, 0.0, 0.0, 1.0)
    bootstrap = stats.bootstrap(
        (ndcg,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=64, rng=np.random.default_rng(seed)
    )
    means = bootstrap.bootstrap_distribution
    opposite = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    low, high = bootstrap.confidence_interval
    p = min(1.0, 2 * (opposite + 1) / (len(means) + 1))  # the + 1 keeps p above 0 with finitely many resamples
    return Difference(float(recall.mean()), recall_p, float(ndcg.mean()), float(low), float(high), p)
