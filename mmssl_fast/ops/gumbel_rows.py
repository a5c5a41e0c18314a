"""Gumbel rows, softmax((A + σ g)/τ) of equation 5: as dense tiles, as a sparse block, and as GumbelRows.

gumbel_method.py describes the two evaluations, dense and by order statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..graph import InteractionGraph
from ..modes import lasting
from ..tiles import item_tiles
from .csr_transpose import csr_transpose
from .gumbel_method import choose_method, entry_capacity
from .philox import seed_offset
from .row_sums import row_sums
from .spmm import spmm, spmm_add_

_ops = torch.ops.mmssl_fast


def gumbel_lse(
    graph: InteractionGraph | GraphRows,
    users: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
) -> Tensor:
    """Equals ``logsumexp((A[users] + noise_scale * g) / tau, dim=1)``, without forming the logits.

    Args:
        graph: InteractionGraph.
        users: int64 [B]. Users may repeat.
        tau, seed, offset, noise_scale: as for `gumbel_softmax`.

    Returns:
        float64 [B]. At τ = 0.001, float32 would have an error of 0.002.
    """
    words = seed_offset("gumbel_lse", seed, offset, graph.crow.device)
    return _ops.gumbel_lse(graph.crow, graph.col, users, graph.n_items, tau, words, noise_scale)


def gumbel_tile(
    graph: InteractionGraph | GraphRows,
    users: Tensor,
    lse: Tensor,
    first: int,
    last: int,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
) -> Tensor:
    """Equals ``softmax((A[users] + noise_scale * g) / tau, dim=1)[:, first:last]``, without forming other columns.

    Args:
        graph, users, tau, seed, offset, noise_scale: as for `gumbel_lse`.
        lse: float64 [B], the result of `gumbel_lse` for the same arguments.
        first, last: range of items. The entries have the same bits for any range.

    Returns:
        float32 [B, last − first].
    """
    words = seed_offset("gumbel_tile", seed, offset, graph.crow.device)
    return _ops.gumbel_tile(graph.crow, graph.col, users, lse, graph.n_items, first, last, tau, words, noise_scale)


def gumbel_order_statistics(
    graph: InteractionGraph | GraphRows,
    users: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
    capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Equals ``reference.gumbel_order_statistics(graph, users, tau, seed, offset, noise_scale)``: the rows
    softmax((A + σ g)/τ) as a CSR block.

    A row contains all seen items, and unseen items until the expected weight of the remaining ones is below 2⁻²⁴ of the
    largest weight. On CUDA, col and value have `capacity` entries, so that the host need not wait for the lengths of
    the rows. The entries from crow[B] on are 0.

    Args:
        graph, users, tau, seed, offset, noise_scale: as for `gumbel_softmax`.
        capacity: number of entries to allocate on CUDA, by default `entry_capacity`. If the rows need more, the kernel
            stops with a device-side assertion. Ignored on the CPU.

    Returns:
        crow int64 [B + 1]; col in the dtype of graph.col, ascending within a row; value float32. The values of a row
        sum to 1.

    Raises:
        ValueError: tau / noise_scale is not below 1.
    """
    words = seed_offset("gumbel_order_statistics", seed, offset, graph.crow.device)
    if capacity is None:
        capacity = entry_capacity(cast(InteractionGraph, graph), users, tau, noise_scale)
    return _ops.gumbel_order_statistics(graph.crow, graph.col, users, graph.n_items, tau, words, noise_scale, capacity)


class GraphRows(NamedTuple):
    """The part of an InteractionGraph that the Gumbel ops read."""

    crow: Tensor
    col: Tensor
    n_items: int


class GumbelRows:
    """The matrix P = softmax((A[users] + σ g)/τ), [B, I], which supports products but is not stored.

    The noise is a function of (seed, offset, global user id), so that every pass generates the same P. Method
    "order_statistics" keeps a CSR block of the largest entries (some tens per row), which is drawn when first needed.
    Method "dense" keeps the log-sum-exp [B] and generates P tile by tile, with O(B · tile) memory. The methods are not
    recorded by autograd.

    Args:
        graph, users, tau, seed, offset, noise_scale, method: as for `gumbel_softmax`. graph may be a `GraphRows`.
        capacity: as for `gumbel_order_statistics`. Required if graph is a `GraphRows` on CUDA.
        max_repeats: as for `entry_capacity`, which computes the capacity if it is not given.
        block, lse: the results of `block()` and `lse()` for the same rows, if they are already known.
        items: (first, last): only P[:, first:last], with items counted from `first`. Every range has the entries of the
            whole rows, for which order statistics are drawn, or lse is computed, as a whole. None is (0, I).

    Raises:
        ValueError: as for `choose_method`.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> rows = GumbelRows(graph, torch.arange(2), tau=0.2, seed=0)
        >>> weight = torch.randn(4, 3)
        >>> (product,), square = rows.forward([weight.mT])
        >>> torch.allclose(product, rows.dense() @ weight.mT)
        True
        >>> torch.allclose(square, rows.dense().double().square().sum(1))
        True
    """

    def __init__(
        self,
        graph: InteractionGraph | GraphRows,
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
        items: tuple[int, int] | None = None,
    ) -> None:
        self.method = choose_method("GumbelRows", method, tau, noise_scale, graph.n_items)
        self.items = (0, graph.n_items) if items is None else items
        self.graph, self.users, self.n_items = graph, users, self.items[1] - self.items[0]
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
            self._capacity = entry_capacity(
                cast(InteractionGraph, self.graph), self.users, tau, noise_scale, self.max_repeats
            )
        return self._capacity

    def block(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows as a CSR block (crow, col ascending, value float32), drawn by the first call.

        Raises ValueError unless the method is "order_statistics".
        """
        if self.method != "order_statistics":
            raise ValueError(f'GumbelRows.block: only method "order_statistics" has sparse rows, got {self.method!r}')
        if self._block is None:
            block = gumbel_order_statistics(self.graph, self.users, *self.noise, self.capacity)
            crow, col, value = block if self.n_items == self.graph.n_items else _columns(block, *self.items)
            self._block = lasting(crow), lasting(col), lasting(value)
        return self._block

    def lse(self) -> Tensor:
        """Log-sum-exp of the logits, float64 [B], computed by the first call. `tile` needs it."""
        if self._lse is None:
            self._lse = lasting(gumbel_lse(self.graph, self.users, *self.noise))
        return self._lse

    @property
    def cached_block(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The result of `block()`, or None if it was not called yet."""
        return self._block

    @property
    def cached_lse(self) -> Tensor | None:
        """The result of `lse()`, or None if it was not called yet."""
        return self._lse

    def tile(self, begin: int, end: int) -> Tensor:
        """P[:, begin:end], float32, by the dense evaluation."""
        first = self.items[0]
        return gumbel_tile(self.graph, self.users, self.lse(), first + begin, first + end, *self.noise)

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """(begin, end, P[:, begin:end]) for all tiles of items, by the dense evaluation."""
        for begin, end in item_tiles(*self.shape):
            yield begin, end, self.tile(begin, end)

    def dense(self) -> Tensor:
        """The rows as a matrix, float32 [B, I]. Equals `gumbel_softmax` with the same arguments, for `items`."""
        tau, seed, offset, noise_scale = self.noise
        sparse = self.method == "order_statistics"
        graph, words = self.graph, seed_offset("GumbelRows.dense", seed, offset, self.graph.crow.device)
        noise = tau, words, noise_scale, 0.0, False, sparse, self.capacity if sparse else 0
        whole = _ops.gumbel_softmax(graph.crow, graph.col, self.users, None, None, graph.n_items, *noise)[0]
        return whole[:, slice(*self.items)]

    @torch.no_grad()
    def square(self) -> Tensor:
        """Squared row lengths, float64 [B], computed by the first call."""
        if self._square is None:
            if self.method == "order_statistics":
                crow, _, value = self.block()
                self._square = lasting(row_sums(crow, value.double().square()))
            else:
                zero = self.users.new_zeros(self.shape[0], dtype=torch.float64)
                self._square = lasting(sum((tile_square(tile) for *_, tile in self.tiles()), zero))
        return self._square

    def set_square(self, square: Tensor) -> None:
        """Sets the result of `square()`. A caller that iterates over the tiles for another purpose can add up
        `tile_square` in the same pass."""
        self._square = lasting(square)

    @torch.no_grad()
    def forward(self, mats: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Equals ``[P @ x for x in mats], P.double().square().sum(1)``, generating P once.

        Args:
            mats: [I, k] each, with any k; float32, float64 or bfloat16 (sums in float32). Contiguous rows are fastest.

        Returns:
            The products [B, k] in the dtype of each x, and the squared row lengths, float64 [B].

        Raises:
            ValueError: an x does not have I rows.
        """
        for x in mats:
            if x.ndim != 2 or x.shape[0] != self.n_items:
                raise ValueError(f"GumbelRows.forward: x must be [{self.n_items}, k], got shape {tuple(x.shape)}")
        if self.method == "order_statistics":
            crow, col, value = self.block()
            return [spmm(crow, col, value, x) for x in mats], self.square()
        sums = [x.new_zeros(self.shape[0], x.shape[1], dtype=summing_dtype(x)) for x in mats]
        square = self.users.new_zeros(self.shape[0], dtype=torch.float64)
        for begin, end, tile in self.tiles():
            for total, x in zip(sums, mats, strict=True):
                total.addmm_(tile.to(total.dtype), x[begin:end].to(total.dtype))
            square += tile_square(tile)
        self.set_square(square)
        return [total.to(x.dtype) for total, x in zip(sums, mats, strict=True)], square

    @torch.no_grad()
    def backward(self, grads: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """Equals ``for y, out in zip(grads, outs): out += P.T @ y``, generating P once.

        Args:
            grads: [B, k] each.
            outs: [I, k] each, float32 or float64, with contiguous rows. They are changed in place.

        Raises:
            ValueError: a shape does not match, or an output has another dtype.
        """
        for y, out in zip(grads, outs, strict=True):
            if out.shape != (self.n_items, *y.shape[1:]) or y.shape[0] != self.shape[0]:
                raise ValueError(
                    f"GumbelRows.backward: the gradient must be [{self.shape[0]}, k] and the output "
                    f"[{self.n_items}, k], got shapes {tuple(y.shape)} and {tuple(out.shape)}"
                )
            if out.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"GumbelRows.backward: the output must be float32 or float64, got {out.dtype}")
        if self.method == "order_statistics":
            if self._transposed is None:
                crow, col, value = self.block()
                cols, t_crow, t_row, order = csr_transpose(crow, col, self.n_items)
                self._transposed = lasting(cols), lasting(t_crow), lasting(t_row), lasting(value[order])
            for y, out in zip(grads, outs, strict=True):
                spmm_add_(out, *self._transposed, y.to(out.dtype))
            return
        for begin, end, tile in self.tiles():
            for y, out in zip(grads, outs, strict=True):
                out[begin:end].addmm_(tile.T.to(out.dtype), y.to(out.dtype))


def _columns(block: tuple[Tensor, Tensor, Tensor], first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of a CSR block in the columns [first, last), counted from `first`."""
    crow, col, value = block
    kept = (col >= first) & (col < last)
    kept &= torch.arange(col.numel(), device=col.device) < crow[-1]  # on CUDA, there may be entries after the last row
    return F.pad(kept.cumsum(0), (1, 0))[crow], col[kept] - first, value[kept]


def tile_square(tile: Tensor) -> Tensor:
    """The contribution of a tile to the squared row lengths, float64 [B]. vector_norm avoids a float64 copy."""
    return torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64).square_()


def summing_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which products with x are accumulated."""
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


@torch.library.register_fake("mmssl_fast::gumbel_lse")
def _(
    crow: Tensor, col: Tensor, users: Tensor, n_items: int, tau: float, seed_offset: Tensor, noise_scale: float
) -> Tensor:
    return users.new_empty(users.shape, dtype=torch.float64)


@torch.library.register_fake("mmssl_fast::gumbel_tile")
def _(crow: Tensor, col: Tensor, users: Tensor, lse: Tensor, n_items: int, first: int, last: int, *_: Any) -> Tensor:
    return users.new_empty(users.shape[0], last - first, dtype=torch.float32)


@torch.library.register_fake("mmssl_fast::gumbel_order_statistics")
def _(crow: Tensor, col: Tensor, users: Tensor, n_items: int, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    capacity = rest[-1]
    entries = capacity if users.is_cuda else torch.library.get_ctx().new_dynamic_size()
    return (
        users.new_empty(users.shape[0] + 1),
        col.new_empty(entries),
        users.new_empty(entries, dtype=torch.float32),
    )
