"""gumbel_linear: a linear layer on Gumbel rows (equations 4 and 5)."""

import torch
from torch import Tensor

from ..arguments import as_ids, check_tensors
from . import _triton
from .derivatives import differentiable
from .gumbel_rows import GraphRows, GumbelRows, choose_method, entry_capacity, summing_dtype
from .philox import seed_offset

_ops = torch.ops.mmssl_fast

# Columns of a product for which CUDA makes dense rows and multiplies them in one kernel (kernels/gumbel_linear.py).
ONE_PASS_COLUMNS = 128


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
    check_tensors(op, weight=weight)
    users = as_ids(op, "users", users)
    if weight.ndim != 2 or weight.shape[1] != graph.n_items:
        raise ValueError(f"{op}: weight must be [H, {graph.n_items}], got {tuple(weight.shape)}")
    method = choose_method(op, method, tau, noise_scale, graph.n_items)
    sparse = method == "order_statistics"
    noise = tau, seed_offset(op, seed, offset, weight.device), noise_scale, sparse
    capacity = entry_capacity(graph, users, tau, noise_scale) if sparse else 0
    return gumbel_linear_op(weight, graph.crow, graph.col, users, *noise, capacity)


def _rows(crow, col, users, n_items, tau, seed_offset, noise_scale, order_statistics, capacity) -> GumbelRows:
    method = "order_statistics" if order_statistics else "dense"
    return GumbelRows(GraphRows(crow, col, n_items), users, tau, *seed_offset, noise_scale, method, capacity)


def gumbel_linear_by_rows(weight, crow, col, users, *noise):
    (y,), _ = _rows(crow, col, users, weight.shape[1], *noise).forward([weight.mT])
    return y


def gumbel_linear_bwd_by_rows(grad, crow, col, users, n_items, *noise):
    out = grad.new_zeros(n_items, grad.shape[1], dtype=summing_dtype(grad))
    _rows(crow, col, users, n_items, *noise).backward([grad], [out])
    return out.to(grad.dtype)


def _in_one_pass(matrix, order_statistics) -> bool:
    """Whether a CUDA kernel that makes dense rows and multiplies them at once takes [rows, columns] `matrix`."""
    return (
        not order_statistics and matrix.shape[1] <= ONE_PASS_COLUMNS and matrix.dtype in (torch.float32, torch.bfloat16)
    )


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
    return gumbel_linear_bwd(grad, *rows, ctx.n_items, ctx.tau, seed_offset, *ctx.how).mT, *(None,) * 8


def _save_bwd(ctx, inputs, output):
    _, crow, col, users, _, tau, seed_offset, *how = inputs
    ctx.save_for_backward(crow, col, users, seed_offset)
    ctx.tau, ctx.how = tau, how


def _bwd_grad(ctx, grad):
    *rows, seed_offset = ctx.saved_tensors
    return gumbel_linear_op(grad.mT, *rows, ctx.tau, seed_offset, *ctx.how), *(None,) * 9


def _linear_tangent(inputs, _, tangents):
    return gumbel_linear_op(tangents[0], *inputs[1:])


def _bwd_tangent(inputs, _, tangents):
    return gumbel_linear_bwd(tangents[0], *inputs[1:])


gumbel_linear_op = differentiable("gumbel_linear", _linear_grad, _save_linear, jvp=_linear_tangent)
gumbel_linear_bwd = differentiable("gumbel_linear_bwd", _bwd_grad, _save_bwd, jvp=_bwd_tangent)
