"""Standard deviation over seeds, and significance tests between two systems on the same test users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE, POWER = 0.95, 0.8
TESTED = {"recall": "Recall@20", "ndcg": "NDCG@20"}
TESTS = (
    "Difference: mean of the reference minus mean of the row. p over users: paired t-test over the test users, with "
    "the mean over seeds for each user. The 95% interval and the other p-values take users and seeds as random: the "
    "squared standard error is the variance of the difference over users, divided by their number, plus the variance "
    "of the mean over seeds, divided by their number, of both systems; the degrees of freedom are those of Welch and "
    "Satterthwaite. Where a system has a single seed, the variance between its seeds is left out. Corrected: by Holm's "
    "method, for all differences of the table in both metrics. Seeds: the number for each of the two systems at which "
    f"a difference of this size is found with a power of {POWER:.0%} at p < 0.05 on these users (normal "
    "approximation); –: at no number, because there are too few users."
)


class Difference(NamedTuple):
    """The difference reference minus other of a metric over the same users.

    mean: over users and seeds. low, high: 95% confidence interval. p_users: p-value of a paired t-test over the users.
    p: of a t-test over users and seeds, like the interval. seeds: how many of each system are needed; None: no number
    is enough.
    """

    mean: float
    low: float
    high: float
    p_users: float
    p: float
    seeds: int | None


def spread(values: list[float]) -> tuple[float, float]:
    """(mean, sample standard deviation). The deviation of a single value is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def compare(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Compare a metric of two systems. reference, other: [seeds, n], a row per seed and one value per test user, the
    same users in the same order; n ≥ 2. The numbers of seeds may differ.

    >>> first, second = np.array([[0.5, 0.7, 0.9]]), np.array([[0.4, 0.65, 0.75]])
    >>> found = compare(first, second)
    >>> round(found.mean, 3), round(found.p, 3), found.seeds
    (0.1, 0.074, 1)
    """
    change = reference.mean(0) - other.mean(0)
    change[np.abs(change) <= 1e-12] = 0.0  # by rounding, equal means of tied items may differ in the last digits
    mean, parts = float(change.mean()), [(float(change.var(ddof=1)) / len(change), len(change) - 1)]
    between = 0.0
    for values in (reference, other):
        if len(values) > 1:
            variance = float(values.mean(1).var(ddof=1))
            between += variance
            parts.append((variance / len(values), len(values) - 1))
    if not change.any():
        return Difference(0.0, 0.0, 0.0, 1.0, 1.0, None)
    low, high, p = _t_test(mean, parts)
    return Difference(mean, low, high, _t_test(mean, parts[:1])[2], p, _seeds(mean, parts[0][0], between))


def _t_test(mean: float, parts: Sequence[tuple[float, int]]) -> tuple[float, float, float]:
    """(low, high, p) of a mean whose squared standard error is the sum of parts (value, degrees of freedom)."""
    square = sum(value for value, _ in parts)
    if square == 0:
        return mean, mean, 0.0
    freedom = square**2 / sum(value**2 / degrees for value, degrees in parts)
    half = math.sqrt(square) * float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / math.sqrt(square), freedom))


def _seeds(mean: float, of_users: float, between: float) -> int | None:
    """Seeds S with |mean| ≥ (z_0.975 + z_power) sqrt(of_users + between / S)."""
    allowed = (mean / (stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER))) ** 2 - of_users
    return max(1, math.ceil(between / allowed)) if allowed > 0 else None


def holm(p: Sequence[float]) -> list[float]:
    """The p-values, corrected for their number by Holm's method, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order, corrected, largest = sorted(range(len(p)), key=lambda index: p[index]), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
