"""gumbel_linear: a linear layer on Gumbel rows (equations 4 and 5), and `GumbelRows`, which multiplies by them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tiles import tile_elements
from . import _triton
from .csr_transpose import csr_transpose
from .gumbel_rows import choose_method, entry_capacity, gumbel_lse, gumbel_order_statistics, gumbel_tile
from .gumbel_softmax import gumbel_softmax
from .philox import seed_offset
from .spmm import spmm, spmm_add_

_ops = torch.ops.mmssl_fast

TILE_COLUMNS = (256, 4096)
# Columns of a product for which CUDA makes dense rows and multiplies them in one kernel (kernels/gumbel_linear.py).
ONE_PASS_COLUMNS = 128


class GraphRows(NamedTuple):
    """What the Gumbel ops read of a graph."""

    crow: Tensor
    col: Tensor
    n_items: int


class GumbelRows:
    """P = softmax((A[users] + σ g)/τ), [B, I], as a matrix that can be multiplied by but is not stored.

    ``forward`` gives P @ x for several x in one generation of the rows, ``backward`` Pᵀ @ y; neither is recorded by
    autograd: they are what a gradient formula is written with. Order statistics keep the sparse rows (tens of entries a
    row); dense tiles keep float64 [B] and regenerate the rest, O(B · tile) memory.

    Args:
        graph, users, tau, seed, offset, noise_scale, method: as in `gumbel_softmax`; graph may be a `GraphRows`.
        capacity: as in `gumbel_order_statistics`; a `GraphRows` on CUDA needs it.
    """

    def __init__(self, graph, users: Tensor, tau: float, seed: int | Tensor, offset: int | Tensor = 0,
                 noise_scale: float = 1.0, method: str = "auto", capacity: int | None = None) -> None:  # fmt: skip
        self.method = choose_method("GumbelRows", method, tau, noise_scale, graph.n_items)
        self.graph, self.users, self.n_items = graph, users, graph.n_items
        self._noise, self._capacity = (tau, seed, offset, noise_scale), capacity
        self._block = self._transposed = self._lse = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.users.numel(), self.n_items

    def block(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows as CSR (crow, col, value float32), drawn once. Only for method "order_statistics"."""
        if self.method != "order_statistics":
            raise ValueError(f"GumbelRows.block: rows are sparse by order statistics only, method is {self.method!r}")
        if self._block is None:
            self._block = gumbel_order_statistics(self.graph, self.users, *self._noise, self._capacity)
        return self._block

    def dense(self) -> Tensor:
        """The rows as a matrix, float32 [B, I]."""
        tau, seed, offset, noise_scale = self._noise
        return gumbel_softmax(
            self.graph, self.users, tau, seed, offset, noise_scale=noise_scale, method=self.method
        )  # fmt: skip

    @torch.no_grad()
    def forward(self, mats: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Equals ``[P @ x for x in mats], P.double().square().sum(1)``.

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
            square = spmm(crow, torch.zeros_like(col), value.double().square(), value.new_ones(1, 1).double())
            return [spmm(crow, col, value, x) for x in mats], square.flatten()
        sums = [x.new_zeros(self.shape[0], x.shape[1], dtype=_wide(x)) for x in mats]
        square = self.users.new_zeros(self.shape[0], dtype=torch.float64)
        for first, last, tile in self._tiles():
            for total, x in zip(sums, mats, strict=True):
                total.addmm_(tile.to(total.dtype), x[first:last].to(total.dtype))
            square += torch.linalg.vecdot(tile, tile)
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
                self._transposed = cols, t_crow, t_row, value[order]
            for y, out in zip(grads, outs, strict=True):
                spmm_add_(out, *self._transposed, y.to(out.dtype))
            return
        for first, last, tile in self._tiles():
            for y, out in zip(grads, outs, strict=True):
                out[first:last].addmm_(tile.T.to(out.dtype), y.to(out.dtype))

    def _tiles(self):
        """(first, last, P[:, first:last]) over the items."""
        if self._lse is None:
            self._lse = gumbel_lse(self.graph, self.users, *self._noise)
        low, high = TILE_COLUMNS
        width = min(max(tile_elements() // max(self.shape[0], 1), low), high) // 64 * 64
        for first in range(0, self.n_items, width):
            last = min(first + width, self.n_items)
            yield first, last, gumbel_tile(self.graph, self.users, self._lse, first, last, *self._noise)


def gumbel_linear(
    graph,
    users: Tensor,
    weight: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
    method: str = "auto",
) -> Tensor:
    """Equals ``F.linear(gumbel_softmax(graph, users, tau, seed, offset, noise_scale=noise_scale), weight)``, without
    forming the B x I rows: equation 4's first layer on equation 5's rows.

    Order statistics: a weighted sum of a few columns of the weight a row, whatever I is. Dense: tiles of B x 256 to
    4096 rows times the weight, O(B · tile) memory. Differentiable in weight, any number of times; backward regenerates
    the rows.

    Args:
        graph, users, tau, seed, offset, noise_scale, method: as in `gumbel_softmax`.
        weight: [H, I] float32, float64 or bfloat16 (sums in float32). Stored item-major (``weight.T`` contiguous), a
            column is one contiguous read.

    Returns:
        [B, H], dtype of weight.

    Raises:
        ValueError: as `gumbel_softmax`, and for a weight that is not [H, I].
    """
    op = "gumbel_linear"
    if weight.ndim != 2 or weight.shape[1] != graph.n_items:
        raise ValueError(f"{op}: weight must be [H, {graph.n_items}], got {tuple(weight.shape)}")
    method = choose_method(op, method, tau, noise_scale, graph.n_items)
    sparse = method == "order_statistics"
    noise = tau, seed_offset(op, seed, offset, weight.device), noise_scale, sparse
    capacity = entry_capacity(graph, users, tau, noise_scale) if sparse else 0
    return _ops.gumbel_linear(weight, graph.crow, graph.col, users, *noise, capacity)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


def _rows(crow, col, users, n_items, tau, seed_offset, noise_scale, order_statistics, capacity) -> GumbelRows:
    method = "order_statistics" if order_statistics else "dense"
    return GumbelRows(GraphRows(crow, col, n_items), users, tau, *seed_offset, noise_scale, method, capacity)


def gumbel_linear_by_rows(weight, crow, col, users, *noise):
    (y,), _ = _rows(crow, col, users, weight.shape[1], *noise).forward([weight.mT])
    return y


def gumbel_linear_bwd_by_rows(grad, crow, col, users, n_items, *noise):
    out = grad.new_zeros(n_items, grad.shape[1], dtype=_wide(grad))
    _rows(crow, col, users, n_items, *noise).backward([grad], [out])
    return out.to(grad.dtype)


def _in_one_pass(matrix, order_statistics) -> bool:
    """Whether a CUDA kernel that makes dense rows and multiplies them at once takes [rows, columns] `matrix`."""
    return (
        not order_statistics
        and matrix.shape[1] <= ONE_PASS_COLUMNS
        and matrix.dtype in (torch.float32, torch.bfloat16)
    )  # fmt: skip


def gumbel_linear_cuda(weight, crow, col, users, tau, seed_offset, noise_scale, order_statistics, capacity):
    if not _in_one_pass(weight.mT, order_statistics):
        noise = tau, seed_offset, noise_scale, order_statistics, capacity
        return gumbel_linear_by_rows(weight, crow, col, users, *noise)
    lse = _ops.gumbel_lse(crow, col, users, weight.shape[1], tau, seed_offset, noise_scale)
    return _triton.kernel("gumbel_linear")(weight, crow, col, users, lse, tau, seed_offset, noise_scale)


def gumbel_linear_bwd_cuda(grad, crow, col, users, n_items, tau, seed_offset, noise_scale, order_statistics, capacity):
    if not _in_one_pass(grad, order_statistics):
        noise = tau, seed_offset, noise_scale, order_statistics, capacity
        return gumbel_linear_bwd_by_rows(grad, crow, col, users, n_items, *noise)
    lse = _ops.gumbel_lse(crow, col, users, n_items, tau, seed_offset, noise_scale)
    return _triton.kernel("gumbel_linear_bwd")(grad, crow, col, users, lse, n_items, tau, seed_offset, noise_scale)


# As calls: `impl` used as a decorator returns None.
torch.library.impl("mmssl_fast::gumbel_linear", "cpu", gumbel_linear_by_rows)
torch.library.impl("mmssl_fast::gumbel_linear_bwd", "cpu", gumbel_linear_bwd_by_rows)
torch.library.impl("mmssl_fast::gumbel_linear", "cuda", gumbel_linear_cuda)
torch.library.impl("mmssl_fast::gumbel_linear_bwd", "cuda", gumbel_linear_bwd_cuda)


@torch.library.register_fake("mmssl_fast::gumbel_linear")
def _(weight, crow, col, users, tau, seed_offset, noise_scale, order_statistics, capacity):
    return weight.new_empty(users.shape[0], weight.shape[0])


@torch.library.register_fake("mmssl_fast::gumbel_linear_bwd")
def _(grad, crow, col, users, n_items, tau, seed_offset, noise_scale, order_statistics, capacity):
    return grad.new_empty(n_items, grad.shape[1])


# Both are linear: y = P Wᵀ has the gradient dWᵀ = Pᵀ dy, and Pᵀ dy that of P times what it receives.


def _save_linear(ctx, inputs, output):
    weight, crow, col, users, tau, seed_offset, *how = inputs
    ctx.save_for_backward(crow, col, users, seed_offset)
    ctx.n_items, ctx.tau, ctx.how = weight.shape[1], tau, how


def _linear_grad(ctx, grad):
    *rows, seed_offset = ctx.saved_tensors
    return _ops.gumbel_linear_bwd(grad, *rows, ctx.n_items, ctx.tau, seed_offset, *ctx.how).mT, *(None,) * 8


def _save_bwd(ctx, inputs, output):
    _, crow, col, users, _, tau, seed_offset, *how = inputs
    ctx.save_for_backward(crow, col, users, seed_offset)
    ctx.tau, ctx.how = tau, how


def _bwd_grad(ctx, grad):
    *rows, seed_offset = ctx.saved_tensors
    return _ops.gumbel_linear(grad.mT, *rows, ctx.tau, seed_offset, *ctx.how), *(None,) * 9


torch.library.register_autograd("mmssl_fast::gumbel_linear", _linear_grad, setup_context=_save_linear)
torch.library.register_autograd("mmssl_fast::gumbel_linear_bwd", _bwd_grad, setup_context=_save_bwd)
