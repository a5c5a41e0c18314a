"""sampled_dot: the entries of U Vᵀ at the positions of a CSR block."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from .csr_transpose import transpose_padded
from .derivatives import differentiable

_ops = torch.ops.mmssl_fast


def sampled_dot(crow: torch.Tensor, col: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Equals ``(u @ v.T)[row, col]`` with ``row = repeat_interleave(arange(B), crow.diff())``, without forming u @ v.T.

    Computes the products s_ui = U_u·V_i of the seen pairs, which the linear layer and the row norms of generated rows
    subtract (docs/algebra.md). Differentiable any number of times in u and v. The result has the same bits for any
    number of threads.

    Args:
        crow: int64 [B + 1], offsets of the rows, from 0 to nnz. On CUDA crow[-1] may be smaller than nnz; the result
            is 0 for the entries from there on.
        col: int32 or int64 [nnz], the item of every entry. Entries may repeat.
        u: [B, d] float32, float64 or bfloat16 (sums in float32).
        v: [I, d], dtype of u.

    Returns:
        [nnz], dtype of u: ``u[row(e)] @ v[col[e]]`` for every entry e.

    Raises:
        ValueError: shapes or dtypes do not match, the offsets decrease, or a column lies outside [0, I).

    Example:
        >>> u, v = torch.randn(2, 4), torch.randn(3, 4)
        >>> crow, col = torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1])
        >>> torch.allclose(sampled_dot(crow, col, u, v), (u @ v.T)[[0, 1, 1], [2, 0, 1]])
        True
    """
    return sampled_dot_op(crow, col, u, v)


@torch.library.register_fake("mmssl_fast::sampled_dot")
def _(crow: Tensor, col: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return u.new_empty(col.shape)


@torch.library.register_fake("mmssl_fast::sampled_dot_bwd_u")
def _(crow: Tensor, col: Tensor, grad: Tensor, v: Tensor) -> Tensor:
    return v.new_empty(crow.shape[0] - 1, v.shape[1])


@torch.library.register_fake("mmssl_fast::sampled_dot_bwd_v")
def _(crow: Tensor, col: Tensor, grad: Tensor, u: Tensor, n_items: int) -> Tensor:
    return u.new_empty(n_items, u.shape[1])


def _bwd_u_cuda(crow: Tensor, col: Tensor, grad: Tensor, v: Tensor) -> Tensor:
    return _ops.spmm(crow, col, grad, None, None, v)


def _bwd_v_cuda(crow: Tensor, col: Tensor, grad: Tensor, u: Tensor, n_items: int) -> Tensor:
    items, t_crow, t_row, order = transpose_padded(crow, col, n_items)
    dv = u.new_zeros(n_items, u.shape[1])
    _ops.spmm_add_(dv, items, t_crow, t_row, grad[order], u)
    return dv


torch.library.impl("mmssl_fast::sampled_dot_bwd_u", "cuda", _bwd_u_cuda)
torch.library.impl("mmssl_fast::sampled_dot_bwd_v", "cuda", _bwd_v_cuda)

# The gradients of each of these three ops are the other two, so that any derivative can be computed:
#   sampled_dot(u, v)[e] = u[row e]·v[col e]
#   bwd_u(w, v)[r] = Σ_{row e = r} w_e v[col e]
#   bwd_v(w, u)[i] = Σ_{col e = i} w_e u[row e]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])


def _sampled_dot_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, u, v = ctx.saved_tensors
    du = bwd_u_op(crow, col, grad, v) if ctx.needs_input_grad[2] else None
    dv = bwd_v_op(crow, col, grad, u, v.shape[0]) if ctx.needs_input_grad[3] else None
    return None, None, du, dv


def _bwd_u_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, w, v = ctx.saved_tensors
    dw = sampled_dot_op(crow, col, grad, v) if ctx.needs_input_grad[2] else None
    dv = bwd_v_op(crow, col, w, grad, v.shape[0]) if ctx.needs_input_grad[3] else None
    return None, None, dw, dv


def _bwd_v_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, w, u = ctx.saved_tensors
    dw = sampled_dot_op(crow, col, u, grad) if ctx.needs_input_grad[2] else None
    du = bwd_u_op(crow, col, w, grad) if ctx.needs_input_grad[3] else None
    return None, None, dw, du, None


def _bilinear(op: Callable[[], Callable[..., Any]]) -> Callable[..., Tensor]:
    """The tangent of an op that is bilinear in its third and fourth argument."""

    def tangent(inputs: tuple[Any, ...], _: Tensor, tangents: tuple[Any, ...]) -> Tensor:
        crow, col, a, b, *rest = inputs
        from_a = [] if tangents[2] is None else [op()(crow, col, tangents[2], b, *rest)]
        from_b = [] if tangents[3] is None else [op()(crow, col, a, tangents[3], *rest)]
        return sum(from_a + from_b)

    return tangent


sampled_dot_op: Callable[..., Any] = differentiable(
    "sampled_dot", _sampled_dot_grad, _save, jvp=_bilinear(lambda: sampled_dot_op)
)
bwd_u_op: Callable[..., Any] = differentiable("sampled_dot_bwd_u", _bwd_u_grad, _save, jvp=_bilinear(lambda: bwd_u_op))
bwd_v_op: Callable[..., Any] = differentiable("sampled_dot_bwd_v", _bwd_v_grad, _save, jvp=_bilinear(lambda: bwd_v_op))
