"""sampled_dot: the entries of U Vᵀ at the places of a CSR block."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from .csr_transpose import transpose_padded
from .derivatives import differentiable

_ops = torch.ops.mmssl_fast


def sampled_dot(crow: torch.Tensor, col: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Equals ``(u @ v.T)[row, col]`` with ``row = repeat_interleave(arange(B), crow.diff())``, without forming u @ v.T.

    The seen products s_ui = U_u·V_i of equation 3, which the exact forms of equations 4 and 7 subtract.
    Differentiable any number of times in u and v; the same bits for any number of threads.

    Args:
        crow: int64 [B + 1], offsets of the rows, from 0 to nnz (CUDA: to at most nnz; beyond it the result is 0).
        col: int32 or int64 [nnz], the item of every entry; a repeated entry counts every time.
        u: [B, d] float32, float64 or bfloat16 (sums are formed in float32).
        v: [I, d], dtype of u.

    Returns:
        [nnz], dtype of u: ``<u[row(e)], v[col[e]]>`` for every entry e.

    Raises:
        ValueError: for shapes or dtypes that do not match, offsets that fall, or a column outside [0, I).
    """
    return sampled_dot_op(crow, col, u, v)


@torch.library.register_fake("mmssl_fast::sampled_dot")
def _(crow, col, u, v):
    return u.new_empty(col.shape)


@torch.library.register_fake("mmssl_fast::sampled_dot_bwd_u")
def _(crow, col, grad, v):
    return v.new_empty(crow.shape[0] - 1, v.shape[1])


@torch.library.register_fake("mmssl_fast::sampled_dot_bwd_v")
def _(crow, col, grad, u, n_items):
    return u.new_empty(n_items, u.shape[1])


def _bwd_u_cuda(crow, col, grad, v):
    return _ops.spmm(crow, col, grad, None, None, v)


def _bwd_v_cuda(crow, col, grad, u, n_items):
    items, t_crow, t_row, order = transpose_padded(crow, col, n_items)
    dv = u.new_zeros(n_items, u.shape[1])
    _ops.spmm_add_(dv, items, t_crow, t_row, grad[order], u)
    return dv


torch.library.impl("mmssl_fast::sampled_dot_bwd_u", "cuda", _bwd_u_cuda)
torch.library.impl("mmssl_fast::sampled_dot_bwd_v", "cuda", _bwd_v_cuda)

# The three ops are closed under differentiation: each one's gradients are the other two. With s = sampled_dot(u, v):
#   bwd_u(w, v)[r] = Σ_e∈r w_e v[col e]     bwd_v(w, u)[i] = Σ_{col e = i} w_e u[row e]


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])


def _sampled_dot_grad(ctx, grad):
    crow, col, u, v = ctx.saved_tensors
    du = bwd_u_op(crow, col, grad, v) if ctx.needs_input_grad[2] else None
    dv = bwd_v_op(crow, col, grad, u, v.shape[0]) if ctx.needs_input_grad[3] else None
    return None, None, du, dv


def _bwd_u_grad(ctx, grad):
    crow, col, w, v = ctx.saved_tensors
    dw = sampled_dot_op(crow, col, grad, v) if ctx.needs_input_grad[2] else None
    dv = bwd_v_op(crow, col, w, grad, v.shape[0]) if ctx.needs_input_grad[3] else None
    return None, None, dw, dv


def _bwd_v_grad(ctx, grad):
    crow, col, w, u = ctx.saved_tensors
    dw = sampled_dot_op(crow, col, u, grad) if ctx.needs_input_grad[2] else None
    du = bwd_u_op(crow, col, w, grad) if ctx.needs_input_grad[3] else None
    return None, None, dw, du, None


def _bilinear(op):
    """The tangent of an op that is linear in its third and in its fourth argument."""

    def tangent(inputs, _, tangents):
        crow, col, a, b, *rest = inputs
        a_moved = [] if tangents[2] is None else [op()(crow, col, tangents[2], b, *rest)]
        b_moved = [] if tangents[3] is None else [op()(crow, col, a, tangents[3], *rest)]
        return sum(a_moved + b_moved)

    return tangent


sampled_dot_op = differentiable("sampled_dot", _sampled_dot_grad, _save, jvp=_bilinear(lambda: sampled_dot_op))
bwd_u_op = differentiable("sampled_dot_bwd_u", _bwd_u_grad, _save, jvp=_bilinear(lambda: bwd_u_op))
bwd_v_op = differentiable("sampled_dot_bwd_v", _bwd_v_grad, _save, jvp=_bilinear(lambda: bwd_v_op))
