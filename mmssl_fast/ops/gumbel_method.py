"""The choice between the two evaluations of Gumbel rows, and the memory that order statistics need on CUDA.

*Dense*: the noise of every entry is generated from its counter. It works for any τ. *Order statistics*: with
E = e^{−g} ~ Exp(1), an unseen item has weight E^{−σ/τ}, so that for a small τ/σ only the few smallest E matter. They
are drawn in order, together with their items, and nothing else is drawn. Both evaluations have the same distribution,
but give different rows for the same seed.
"""

from __future__ import annotations

import math
from functools import lru_cache

from torch import Tensor

from ..graph import InteractionGraph
from ..static_shapes import is_static

METHODS = ("auto", "dense", "order_statistics")
# A drawn item costs as much as this many dense entries: its share of a gather against theirs of a matrix product.
DRAW_COST = 32


def expected_draws(tau: float, noise_scale: float = 1.0) -> float:
    """Approximate number of unseen items that order statistics draw per row: (2²⁴ / (a − 1))^{1/(a − 1)} with a = σ/τ.

    It solves the stopping rule n·E_(k)^{1−a}/(a − 1) = 2⁻²⁴ E_(1)^{−a} with E_(k) ≈ k/n, where n cancels. The means are
    a little higher, and single rows draw up to ten times as many. Infinite for τ/σ ≥ 1.

    Example:
        >>> [round(expected_draws(tau)) for tau in (0.085, 0.2, 0.25, 0.3)]
        [4, 45, 178, 868]
    """
    if noise_scale <= tau:
        return float("inf")
    power = noise_scale / tau - 1
    exponent = 24 / power
    return 2.0**exponent * power ** (-1 / power) if exponent < 1000 else float("inf")


def entry_capacity(
    graph: InteractionGraph, users: Tensor, tau: float, noise_scale: float = 1.0, max_repeats: int | None = None
) -> int:
    """Number of entries to allocate on CUDA for the order-statistics rows of `users`.

    It depends on the number of users only, so that the host need not wait for their ids. At most one batch in 10¹²
    needs more. On the CPU the result is 0, because the op allocates what it needs.

    Args:
        max_repeats: the maximum number of times that a user occurs in `users`; 1 for distinct users. None allows any
            number, which takes about 30 times the memory at τ/σ = 0.2, because equal rows are long at the same time.
    """
    if not is_static(users.device):
        return 0
    batch = users.shape[0]
    repeats = batch if max_repeats is None else min(max_repeats, batch)
    seen = min(batch * graph.max_degree, repeats * graph.nnz)
    return min(seen + draw_capacity(batch, tau, noise_scale, repeats), batch * graph.n_items)


@lru_cache(maxsize=64)
def draw_capacity(batch: int, tau: float, noise_scale: float, repeats: int) -> float:
    """A number of draws that `batch` rows, in which a user occurs at most `repeats` times, exceed with probability
    < 10⁻¹².

    Let X = n·E_(1) ~ Exp(1) for one row, a = σ/τ, q = a/(a − 1) and C = `expected_draws`. Since E_(k) ≥ S_k/n for the
    k-th arrival S_k of a Poisson process of rate 1 that starts at X, a row has stopped drawing when S_k exceeds
    T(X) = C X^q. A row thus draws at most 2 + Poisson(T) items, for any number of items. As E ≤ 24 ln 2, T is at most
    C (24 ln 2)^q; its mean is C Γ(1 + q) and its second moment C² Γ(1 + 2q). Bernstein's inequality is applied to the
    X, and then to the arrivals. In a sum whose terms repeat up to m times, the terms are m times as large and the
    variance is at most m times as large.
    """
    if batch == 0 or noise_scale <= tau:
        return 0 if batch == 0 else math.inf
    power = noise_scale / tau
    q, factor, log_odds = power / (power - 1), expected_draws(tau, noise_scale), math.log(2e12)
    largest = factor * (24 * math.log(2)) ** q if q < 80 else math.inf
    if not math.isfinite(largest):
        return math.inf

    def deviation(term: float, variance: float) -> float:
        linear = log_odds * term / 3
        return linear + math.sqrt(linear**2 + 2 * log_odds * variance)

    mean, square = factor * math.gamma(1 + q), factor**2 * math.gamma(1 + 2 * q)
    arrivals = min(batch * mean + deviation(repeats * largest, repeats * batch * square), batch * largest)
    return math.ceil(2 * batch + arrivals + deviation(repeats, repeats * arrivals))


def gumbel_method(tau: float, noise_scale: float, n_items: int) -> str:
    """The method that "auto" chooses: "order_statistics" if it draws fewer than 1/32 of the items, else "dense".

    The choice depends on τ/σ and the number of items only, so that the same call gives the same rows on every device.

    Example:
        >>> gumbel_method(0.25, 1.0, n_items=7_000), gumbel_method(0.26, 1.0, n_items=7_000)
        ('order_statistics', 'dense')
        >>> gumbel_method(0.33, 1.0, n_items=100_000), gumbel_method(0.34, 1.0, n_items=100_000)
        ('order_statistics', 'dense')
    """
    return "order_statistics" if expected_draws(tau, noise_scale) * DRAW_COST <= n_items else "dense"


def choose_method(op: str, method: str, tau: float, noise_scale: float, n_items: int) -> str:
    """`method`, with "auto" replaced by `gumbel_method`.

    Raises:
        ValueError: the method is unknown, or it is "order_statistics" and τ/σ ≥ 1.
    """
    check_temperature(op, tau, noise_scale)
    if method not in METHODS:
        raise ValueError(f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "auto":
        return gumbel_method(tau, noise_scale, n_items)
    if method == "order_statistics" and noise_scale <= tau:
        raise ValueError(
            f'{op}: order statistics need tau / noise_scale < 1, got {tau} / {noise_scale}; use method="dense"'
        )
    return method


def check_temperature(op: str, tau: float, noise_scale: float) -> None:
    """Raises ValueError unless τ > 0 and σ ≥ 0, both finite."""
    if not 0 < tau < float("inf"):
        raise ValueError(f"{op}: tau must be positive, got {tau}")
    if not 0 <= noise_scale < float("inf"):
        raise ValueError(f"{op}: noise_scale must not be negative, got {noise_scale}")
