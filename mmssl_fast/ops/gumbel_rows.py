"""The pieces of Gumbel rows, softmax((A + σ g)/τ) of equation 5: tiles, their log-sum-exp, and sparse rows.

Two exact evaluations. *Dense*: every entry's noise is made from its counter, for any τ. *Order statistics*: with
E = e^{−g} ~ Exp(1) an unseen item's weight is E^{−σ/τ}, so at a small τ/σ only the few smallest E count; these are
drawn in order, with their items, and nothing else is. Both have the same distribution, not the same rows for one seed.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..static_shapes import is_static
from .philox import seed_offset

_ops = torch.ops.mmssl_fast

METHODS = ("auto", "dense", "order_statistics")
# A drawn item costs what this many dense entries cost (its share of a gather against its share of a matrix product).
DRAW_COST = 32


def expected_draws(tau: float, noise_scale: float = 1.0) -> float:
    """About how many unseen items order statistics draw a row: (2²⁴ / (a − 1))^{1/(a − 1)} with a = σ/τ; infinite from
    τ/σ = 1 on.

    From n·E_(k)^{1−a}/(a − 1) = 2⁻²⁴ E_(1)^{−a} with E_(k) ≈ k/n: n cancels. 4 at τ/σ = 0.085, 45 at 0.2, 177 at 0.25,
    870 at 0.3, 50 000 at 0.4. Means are a little higher, single rows up to ten times.
    """
    if noise_scale <= tau:
        return float("inf")
    power = noise_scale / tau - 1
    exponent = 24 / power
    return 2.0**exponent * power ** (-1 / power) if exponent < 1000 else float("inf")


def entry_capacity(graph, users: Tensor, tau: float, noise_scale: float = 1.0, max_repeats: int | None = None) -> int:
    """Room for the order-statistics rows of `users` on CUDA, known without looking at them; 0 on the CPU, which needs
    none. Rows that need more come up at most once in 10¹² batches.

    Args:
        max_repeats: how often a user occurs in `users` at most, 1 for distinct users. None: any number of times, which
            takes some 30 times the room at τ/σ = 0.2, because equal rows are long together.
    """
    if not is_static(users.device):
        return 0
    batch = users.shape[0]
    repeats = batch if max_repeats is None else min(max_repeats, batch)
    seen = min(batch * graph.max_degree, repeats * graph.nnz)
    return min(seen + draw_capacity(batch, tau, noise_scale, repeats), batch * graph.n_items)


@lru_cache(maxsize=64)
def draw_capacity(batch: int, tau: float, noise_scale: float, repeats: int) -> float:
    """Draws of `batch` rows in which a user occurs at most `repeats` times, exceeded with probability < 10⁻¹².

    Let X = n·E_(1) ~ Exp(1) of a row. The drawing has stopped once S_k, the k-th arrival of a Poisson process of rate 1
    from X on (E_(k) ≥ S_k/n), exceeds T(X) = C X^q, C = `expected_draws`, a = σ/τ, q = a/(a − 1): a row draws at most
    2 + Poisson(T) items, of any number. E is at most 24 ln 2, so T at most C (24 ln 2)^q; its mean is C Γ(1 + q) and
    its second moment C² Γ(1 + 2q). Bernstein's inequality, once over the X and once over the arrivals; a sum in which
    terms repeat up to m times has terms m times as large and at most m times the variance.
    """
    if batch == 0 or noise_scale <= tau:
        return 0 if batch == 0 else math.inf
    power = noise_scale / tau
    q, factor, log_odds = power / (power - 1), expected_draws(tau, noise_scale), math.log(2e12)
    most = factor * (24 * math.log(2)) ** q if q < 80 else math.inf
    if not math.isfinite(most):
        return math.inf

    def deviation(term: float, variance: float) -> float:
        linear = log_odds * term / 3
        return linear + math.sqrt(linear**2 + 2 * log_odds * variance)

    mean, square = factor * math.gamma(1 + q), factor**2 * math.gamma(1 + 2 * q)
    arrivals = min(batch * mean + deviation(repeats * most, repeats * batch * square), batch * most)
    return math.ceil(2 * batch + arrivals + deviation(repeats, repeats * arrivals))


def gumbel_method(tau: float, noise_scale: float, n_items: int) -> str:
    """What method="auto" stands for: "order_statistics" where it draws under a 32nd of the items, else "dense".

    Decided by τ/σ and the number of items alone, so that the same call gives the same rows on every device. At 7 000
    items dense takes over at τ/σ = 0.26, at 100 000 at 0.33.
    """
    return "order_statistics" if expected_draws(tau, noise_scale) * DRAW_COST <= n_items else "dense"


def choose_method(op: str, method: str, tau: float, noise_scale: float, n_items: int) -> str:
    """`method`, or what "auto" stands for. Raises ValueError for an unknown one and for order statistics at τ/σ ≥ 1."""
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


def gumbel_lse(
    graph, users: Tensor, tau: float, seed: int | Tensor, offset: int | Tensor = 0, noise_scale: float = 1.0
) -> Tensor:
    """Equals ``logsumexp((A[users] + noise_scale * g) / tau, dim=1)``, without forming the logits.

    Args:
        graph: InteractionGraph.
        users: int64 [B], repeats allowed.
        tau, seed, offset, noise_scale: as in `gumbel_softmax`.

    Returns:
        float64 [B]: at τ = 0.001 a float32 would be off by 0.002.
    """
    at = seed_offset("gumbel_lse", seed, offset, graph.crow.device)
    return _ops.gumbel_lse(graph.crow, graph.col, users, graph.n_items, tau, at, noise_scale)


def gumbel_tile(
    graph, users: Tensor, lse: Tensor, first: int, last: int, tau: float, seed: int | Tensor, offset: int | Tensor = 0,
    noise_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Equals ``softmax((A[users] + noise_scale * g) / tau, dim=1)[:, first:last]``, without forming the rest.

    Args:
        lse: float64 [B], `gumbel_lse` of the same arguments.
        first, last: item range; the tiling does not change a bit.

    Returns:
        float32 [B, last − first].
    """
    at = seed_offset("gumbel_tile", seed, offset, graph.crow.device)
    return _ops.gumbel_tile(graph.crow, graph.col, users, lse, graph.n_items, first, last, tau, at, noise_scale)


def gumbel_order_statistics(
    graph, users: Tensor, tau: float, seed: int | Tensor, offset: int | Tensor = 0, noise_scale: float = 1.0,
    capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Rows softmax((A + σ g)/τ) as a CSR block: every seen item, and the unseen ones drawn until those left are
    expected to weigh under 2⁻²⁴ of the largest. Equals ``reference.gumbel_order_statistics``.

    On CUDA nothing waits for the rows' lengths: col and value have `capacity` entries, 0 from crow[B] on.

    Args:
        graph, users, tau, seed, offset, noise_scale: as in `gumbel_softmax`.
        capacity: entries to make room for on CUDA, by default `entry_capacity`; rows that need more stop the kernel
            with a device-side assertion. The CPU makes room for what there is.

    Returns:
        crow int64 [B + 1], col (dtype of graph.col, ascending within a row), value float32; each row's values sum to 1.

    Raises:
        ValueError: when tau / noise_scale is not below 1.
    """
    at = seed_offset("gumbel_order_statistics", seed, offset, graph.crow.device)
    if capacity is None:
        capacity = entry_capacity(graph, users, tau, noise_scale)
    return _ops.gumbel_order_statistics(graph.crow, graph.col, users, graph.n_items, tau, at, noise_scale, capacity)


@torch.library.register_fake("mmssl_fast::gumbel_lse")
def _(crow, col, users, n_items, tau, seed_offset, noise_scale):
    return users.new_empty(users.shape, dtype=torch.float64)


@torch.library.register_fake("mmssl_fast::gumbel_tile")
def _(crow, col, users, lse, n_items, first, last, tau, seed_offset, noise_scale):
    return users.new_empty(users.shape[0], last - first, dtype=torch.float32)


@torch.library.register_fake("mmssl_fast::gumbel_order_statistics")
def _(crow, col, users, n_items, tau, seed_offset, noise_scale, capacity):
    entries = capacity if users.is_cuda else torch.library.get_ctx().new_dynamic_size()
    return (
        users.new_empty(users.shape[0] + 1),
        col.new_empty(entries),
        users.new_empty(entries, dtype=torch.float32),
    )
