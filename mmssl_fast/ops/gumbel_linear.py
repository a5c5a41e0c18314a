"""gumbel_linear: a linear layer applied to Gumbel rows (Eq. 4 and 5)."""

from typing import Any

import torch
from torch import Tensor

from ..arguments import as_ids, check_tensors
from ..graph import InteractionGraph
from . import _triton
from .derivatives import differentiable
from .gumbel_method import choose_method, entry_capacity
from .gumbel_rows import GraphRows, GumbelRows, summing_dtype
from .philox import seed_offset

_ops = torch.ops.mmssl_fast

# Maximum number of output columns of the fused CUDA kernel, which generates dense rows and multiplies them at once
# (kernels/gumbel_linear.py).
ONE_PASS_COLUMNS = 128


def gumbel_linear(
    graph: InteractionGraph,
    users: Tensor,
    weight: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    noise_scale: float = 1.0,
    method: str = "auto",
) -> Tensor:
    """Equals ``F.linear(gumbel_softmax(graph, users, tau, seed, offset, noise_scale=noise_scale), weight)``, without
    forming the B x I rows.

    The first layer of the discriminator (equation 4 of MMSSL, WWW 2023) applied to the Gumbel rows of equation 5. With
    order statistics, every row is a weighted sum of a few columns of the weight, and the cost does not depend on I. The
    dense method generates the rows in tiles of items and multiplies tile by tile. Differentiable in weight, any number
    of times. The backward pass generates the rows again instead of storing them.

    Args:
        graph, users, tau, seed, offset, noise_scale, method: as for `gumbel_softmax`.
        weight: [H, I] float32, float64 or bfloat16 (sums in float32). It is fastest if it is item-major
            (``weight.T`` contiguous), because a column is then contiguous in memory.

    Returns:
        [B, H], dtype of weight.

    Raises:
        ValueError: as for `gumbel_softmax`, or weight is not [H, I].

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> users, weight = torch.tensor([0, 1]), torch.randn(4, 3)
        >>> rows = gumbel_softmax(graph, users, tau=0.2, seed=7)
        >>> torch.allclose(gumbel_linear(graph, users, weight, tau=0.2, seed=7), F.linear(rows, weight), atol=1e-6)
        True
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


def _rows(
    crow: Tensor,
    col: Tensor,
    users: Tensor,
    n_items: int,
    tau: float,
    seed_offset: Tensor,
    noise_scale: float,
    order_statistics: bool,
    capacity: int,
) -> GumbelRows:
    method = "order_statistics" if order_statistics else "dense"
    seed, offset = seed_offset
    return GumbelRows(GraphRows(crow, col, n_items), users, tau, seed, offset, noise_scale, method, capacity)


def gumbel_linear_by_rows(weight: Tensor, crow: Tensor, col: Tensor, users: Tensor, *noise: Any) -> Tensor:
    (y,), _ = _rows(crow, col, users, weight.shape[1], *noise).forward([weight.mT])
    return y


def gumbel_linear_bwd_by_rows(
    grad: Tensor, crow: Tensor, col: Tensor, users: Tensor, n_items: int, *noise: Any
) -> Tensor:
    out = grad.new_zeros(n_items, grad.shape[1], dtype=summing_dtype(grad))
    _rows(crow, col, users, n_items, *noise).backward([grad], [out])
    return out.to(grad.dtype)


def _in_one_pass(matrix: Tensor, order_statistics: bool) -> bool:
    """Whether the fused CUDA kernel supports a product with `matrix` [rows, columns]."""
    return (
        not order_statistics and matrix.shape[1] <= ONE_PASS_COLUMNS and matrix.dtype in (torch.float32, torch.bfloat16)
    )


def gumbel_linear_cuda(weight: Tensor, crow: Tensor, col: Tensor, users: Tensor, *noise: Any) -> Tensor:
    *temperature_and_seed, order_statistics, _capacity = noise
    if not _in_one_pass(weight.mT, order_statistics):
        return gumbel_linear_by_rows(weight, crow, col, users, *noise)
    lse = _ops.gumbel_lse(crow, col, users, weight.shape[1], *temperature_and_seed)
    return _triton.kernel("gumbel_linear")(weight, crow, col, users, lse, *temperature_and_seed)


def gumbel_linear_bwd_cuda(grad: Tensor, crow: Tensor, col: Tensor, users: Tensor, n_items: int, *noise: Any) -> Tensor:
    *temperature_and_seed, order_statistics, _capacity = noise
    if not _in_one_pass(grad, order_statistics):
        return gumbel_linear_bwd_by_rows(grad, crow, col, users, n_items, *noise)
    lse = _ops.gumbel_lse(crow, col, users, n_items, *temperature_and_seed)
    return _triton.kernel("gumbel_linear_bwd")(grad, crow, col, users, lse, n_items, *temperature_and_seed)


# Called directly, because `impl` used as a decorator would replace the function by None.
torch.library.impl("mmssl_fast::gumbel_linear", "cpu", gumbel_linear_by_rows)
torch.library.impl("mmssl_fast::gumbel_linear_bwd", "cpu", gumbel_linear_bwd_by_rows)
torch.library.impl("mmssl_fast::gumbel_linear", "cuda", gumbel_linear_cuda)
torch.library.impl("mmssl_fast::gumbel_linear_bwd", "cuda", gumbel_linear_bwd_cuda)


@torch.library.register_fake("mmssl_fast::gumbel_linear")
def _(weight: Tensor, crow: Tensor, col: Tensor, users: Tensor, *_: Any) -> Tensor:
    return weight.new_empty(users.shape[0], weight.shape[0])


@torch.library.register_fake("mmssl_fast::gumbel_linear_bwd")
def _(grad: Tensor, crow: Tensor, col: Tensor, users: Tensor, n_items: int, *_: Any) -> Tensor:
    return grad.new_empty(n_items, grad.shape[1])


# Both ops are linear. y = P Wᵀ has the gradient dWᵀ = Pᵀ dy, and the gradient of dWᵀ = Pᵀ dy in dy is P times the
# gradient of dWᵀ, so that each is the other's derivative.


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weight, crow, col, users, tau, seed_offset, *constants = inputs
    ctx.save_for_backward(crow, col, users, seed_offset)
    ctx.n_items, ctx.tau, ctx.constants = weight.shape[1], tau, constants


def _linear_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *rows, seed_offset = ctx.saved_tensors
    return gumbel_linear_bwd(grad, *rows, ctx.n_items, ctx.tau, seed_offset, *ctx.constants).mT, *(None,) * 8


def _save_bwd(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, crow, col, users, _, tau, seed_offset, *constants = inputs
    ctx.save_for_backward(crow, col, users, seed_offset)
    ctx.tau, ctx.constants = tau, constants


def _bwd_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *rows, seed_offset = ctx.saved_tensors
    return gumbel_linear_op(grad.mT, *rows, ctx.tau, seed_offset, *ctx.constants), *(None,) * 9


def _linear_tangent(inputs: tuple[Any, ...], _: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    return gumbel_linear_op(tangents[0], *inputs[1:])


def _bwd_tangent(inputs: tuple[Any, ...], _: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    return gumbel_linear_bwd(tangents[0], *inputs[1:])


gumbel_linear_op = differentiable("gumbel_linear", _linear_grad, _save_linear, jvp=_linear_tangent)
gumbel_linear_bwd = differentiable("gumbel_linear_bwd", _bwd_grad, _save_bwd, jvp=_bwd_tangent)
