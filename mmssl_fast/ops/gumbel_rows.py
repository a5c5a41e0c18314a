"""Gumbel rows, softmax((A + σ g)/τ) of equation 5: tiles, their log-sum-exp, sparse rows, and GumbelRows of them.

Two exact evaluations. *Dense*: every entry's noise is made from its counter, for any τ. *Order statistics*: with
E = e^{−g} ~ Exp(1) an unseen item's weight is E^{−σ/τ}, so at a small τ/σ only the few smallest E count; these are
drawn in order, with their items, and nothing else is. Both have the same distribution, not the same rows for one seed.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..modes import lasting
from ..static_shapes import is_static
from ..tiles import item_tiles
from .csr_transpose import csr_transpose
from .philox import seed_offset
from .row_sums import row_sums
from .spmm import spmm, spmm_add_

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
    words = seed_offset("gumbel_lse", seed, offset, graph.crow.device)
    return _ops.gumbel_lse(graph.crow, graph.col, users, graph.n_items, tau, words, noise_scale)


def gumbel_tile(
    graph,
    users: Tensor,
    lse: Tensor,
    first: int,
    last: int,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
) -> Tensor:
    """Equals ``softmax((A[users] + noise_scale * g) / tau, dim=1)[:, first:last]``, without forming the rest.

    Args:
        lse: float64 [B], `gumbel_lse` of the same arguments.
        first, last: item range; the tiling does not change a bit.

    Returns:
        float32 [B, last − first].
    """
    words = seed_offset("gumbel_tile", seed, offset, graph.crow.device)
    return _ops.gumbel_tile(graph.crow, graph.col, users, lse, graph.n_items, first, last, tau, words, noise_scale)


def gumbel_order_statistics(
    graph,
    users: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
    capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
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
    words = seed_offset("gumbel_order_statistics", seed, offset, graph.crow.device)
    if capacity is None:
        capacity = entry_capacity(graph, users, tau, noise_scale)
    return _ops.gumbel_order_statistics(graph.crow, graph.col, users, graph.n_items, tau, words, noise_scale, capacity)


class GraphRows(NamedTuple):
    """What the Gumbel ops read of a graph."""

    crow: Tensor
    col: Tensor
    n_items: int


class GumbelRows:
    """P = softmax((A[users] + σ g)/τ), [B, I], as a matrix that can be multiplied by but is not stored.

    The noise is a pure function of (seed, offset, global user id), so every pass generates the same P. Method
    "order_statistics" keeps the few entries that count as a CSR block, drawn when first needed (tens of entries a row);
    "dense" keeps float64 [B] and regenerates P in tiles, O(B · tile) memory. Nothing here is recorded by autograd.

    Args:
        graph, users, tau, seed, offset, noise_scale, method: as in `gumbel_softmax`; graph may be a `GraphRows`.
        capacity: as in `gumbel_order_statistics`; a `GraphRows` on CUDA needs it.
        max_repeats: as in `entry_capacity`, which gives the capacity where none is passed.
        block, lse: `block()` and `lse()` of the same rows, where an earlier call has computed them.

    Raises:
        ValueError: as `choose_method`.

    Example:
        >>> rows = GumbelRows(graph, torch.arange(4), tau=0.2, seed=0)
        >>> (product,), square = rows.forward([weight.mT])  # P Wᵀ [4, H] and the squared row lengths [4]
    """

    def __init__(
        self,
        graph,
        users: Tensor,
        tau: float,
        seed: int | Tensor,
        offset: int | Tensor = 0,
        noise_scale: float = 1.0,
        method: str = "auto",
        capacity: int | None = None,
        max_repeats: int | None = None,
        *,
        block: tuple[Tensor, Tensor, Tensor] | None = None,
        lse: Tensor | None = None,
    ) -> None:
        self.method = choose_method("GumbelRows", method, tau, noise_scale, graph.n_items)
        self.graph, self.users, self.n_items = graph, users, graph.n_items
        self.noise, self.max_repeats = (tau, seed, offset, noise_scale), max_repeats
        self._capacity, self._block, self._lse = capacity, block, lse
        self._transposed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._square: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.users.numel(), self.n_items

    @property
    def capacity(self) -> int:
        if self._capacity is None:
            tau, _, _, noise_scale = self.noise
            self._capacity = entry_capacity(self.graph, self.users, tau, noise_scale, self.max_repeats)
        return self._capacity

    def block(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows as CSR (crow, col ascending, value float32), drawn once. Only for method "order_statistics"."""
        if self.method != "order_statistics":
            raise ValueError(f"GumbelRows.block: rows are sparse by order statistics only, method is {self.method!r}")
        if self._block is None:
            block = gumbel_order_statistics(self.graph, self.users, *self.noise, self.capacity)
            self._block = tuple(lasting(x) for x in block)
        return self._block

    def lse(self) -> Tensor:
        """Log-sum-exp of the logits, float64 [B], computed once: all that tiles need."""
        if self._lse is None:
            self._lse = lasting(gumbel_lse(self.graph, self.users, *self.noise))
        return self._lse

    @property
    def drawn(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """`block()` where it has been drawn already."""
        return self._block

    @property
    def summed(self) -> Tensor | None:
        """`lse()` where it has been computed already."""
        return self._lse

    def tile(self, begin: int, end: int) -> Tensor:
        """P[:, begin:end], float32, by dense noise."""
        return gumbel_tile(self.graph, self.users, self.lse(), begin, end, *self.noise)

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """(begin, end, P[:, begin:end]) over all items, by dense noise."""
        for begin, end in item_tiles(*self.shape):
            yield begin, end, self.tile(begin, end)

    def dense(self) -> Tensor:
        """The rows as a matrix, float32 [B, I]: `gumbel_softmax` of the same arguments."""
        tau, seed, offset, noise_scale = self.noise
        sparse = self.method == "order_statistics"
        graph, words = self.graph, seed_offset("GumbelRows.dense", seed, offset, self.graph.crow.device)
        noise = tau, words, noise_scale, 0.0, False, sparse, self.capacity if sparse else 0
        return _ops.gumbel_softmax(graph.crow, graph.col, self.users, None, None, self.n_items, *noise)[0]

    @torch.no_grad()
    def square(self) -> Tensor:
        """Squared row lengths, float64 [B], computed once."""
        if self._square is None:
            if self.method == "order_statistics":
                crow, _, value = self.block()
                self._square = lasting(row_sums(crow, value.double().square()))
            else:
                none = self.users.new_zeros(self.shape[0], dtype=torch.float64)
                self._square = lasting(sum((tile_square(tile) for *_, tile in self.tiles()), none))
        return self._square

    def keep_square(self, square: Tensor) -> None:
        """Takes `square()` from a caller whose own pass over the tiles has summed `tile_square`."""
        self._square = lasting(square)

    @torch.no_grad()
    def forward(self, mats: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Equals ``[P @ x for x in mats], P.double().square().sum(1)``, in one generation of the rows.

        Args:
            mats: [I, k] each, any k; float32, float64 or bfloat16 (sums in float32). Rows contiguous is fastest.

        Returns:
            The products [B, k], dtype of each x, and float64 [B].
        """
        for x in mats:
            if x.ndim != 2 or x.shape[0] != self.n_items:
                raise ValueError(f"GumbelRows.forward: rows have {self.n_items} items, got x of shape {tuple(x.shape)}")
        if self.method == "order_statistics":
            crow, col, value = self.block()
            return [spmm(crow, col, value, x) for x in mats], self.square()
        sums = [x.new_zeros(self.shape[0], x.shape[1], dtype=summing_dtype(x)) for x in mats]
        square = self.users.new_zeros(self.shape[0], dtype=torch.float64)
        for begin, end, tile in self.tiles():
            for total, x in zip(sums, mats, strict=True):
                total.addmm_(tile.to(total.dtype), x[begin:end].to(total.dtype))
            square += tile_square(tile)
        self.keep_square(square)
        return [total.to(x.dtype) for total, x in zip(sums, mats, strict=True)], square

    @torch.no_grad()
    def backward(self, grads: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """Equals ``for y, out in zip(grads, outs): out += P.T @ y``.

        Args:
            grads: [B, k] each.
            outs: [I, k] each, float32 or float64, columns adjacent; added to in place.
        """
        for y, out in zip(grads, outs, strict=True):
            if out.shape != (self.n_items, *y.shape[1:]) or y.shape[0] != self.shape[0]:
                raise ValueError(
                    f"GumbelRows.backward: rows are {self.shape[0]} x {self.n_items}, got a gradient of shape "
                    f"{tuple(y.shape)} for an output of shape {tuple(out.shape)}"
                )
            if out.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"GumbelRows.backward: accumulate in float32 or float64, got {out.dtype}")
        if self.method == "order_statistics":
            if self._transposed is None:
                crow, col, value = self.block()
                cols, t_crow, t_row, order = csr_transpose(crow, col, self.n_items)
                self._transposed = tuple(lasting(x) for x in (cols, t_crow, t_row, value[order]))
            for y, out in zip(grads, outs, strict=True):
                spmm_add_(out, *self._transposed, y.to(out.dtype))
            return
        for begin, end, tile in self.tiles():
            for y, out in zip(grads, outs, strict=True):
                out[begin:end].addmm_(tile.T.to(out.dtype), y.to(out.dtype))


def tile_square(tile: Tensor) -> Tensor:
    """A tile's share of the squared row lengths, float64 [B], with no float64 copy of the tile."""
    return torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64).square_()


def summing_dtype(x: Tensor) -> torch.dtype:
    """What products with x are summed in."""
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


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
