"""gumbel_softmax: the rows of equation 5 as a matrix."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import as_ids, check_tensors
from .derivatives import differentiable
from .gumbel_rows import choose_method, entry_capacity
from .philox import seed_offset
from .unit_rows import unit_rows


def gumbel_softmax(
    graph,
    users: Tensor,
    tau: float,
    seed: int | Tensor,
    offset: int | Tensor = 0,
    *,
    noise_scale: float = 1.0,
    augment: tuple[Tensor, Tensor] | None = None,
    zeta: float = 0.0,
    row_l2: bool = False,
    method: str = "auto",
) -> Tensor:
    """Equals ``softmax((A[users] + noise_scale * g) / tau, dim=1) + zeta * normalize(h_u) @ normalize(h_i).T``,
    optionally divided by each row's length: the real rows of equation 5, made in one pass a row.

    g ~ Gumbel(0, 1) comes from Philox4x32-10 with key `seed` and counter (item // 4, user, offset, stream): the same
    for any batching of users, number of threads or processes, and never stored. Differentiable in h_u and h_i, any
    number of times. The backward pass needs no noise: without `row_l2` it is two products, with it the rows returned
    are read again.

    Args:
        graph: InteractionGraph of U users and I items; A is its 0/1 matrix.
        users: int64 or int32 [B], repeats allowed (equal ids give equal rows).
        tau: temperature, positive.
        seed: 64-bit integer, or a 0-d int64 tensor.
        offset: integer in [0, 2³²) or 0-d int64 tensor; another offset, other noise. Advance it every step.
        noise_scale: σ, what the noise is multiplied by; 1 in equation 5, 0 is legal.
        augment: (h_u [B, d], h_i [I, d]), both float32, float64 or bfloat16 (computed in float32), or None.
        zeta: weight of the cosine rows.
        row_l2: divide each row by its length (a zero row stays zero).
        method: "dense" (any tau), "order_statistics" (tau / noise_scale < 1; sub-linear in I but for writing the zeros)
            or "auto" (see `gumbel_method`). Both are exact; they draw different rows from one seed.

    Returns:
        [B, I], float32, or float64 when augment is (the noise is float32 all the same: its bits are its definition).

    Raises:
        ValueError: tau not positive, noise_scale negative, an unknown method, a user outside the graph, shapes or
            dtypes of augment that do not fit.
    """
    op = "gumbel_softmax"
    users = as_ids(op, "users", users)
    method = choose_method(op, method, tau, noise_scale, graph.n_items)
    user_unit = item_unit = None
    if augment is not None:
        check_tensors(op, h_u=augment[0], h_i=augment[1])
        user_unit, item_unit = (unit_rows(h.float() if h.dtype == torch.bfloat16 else h) for h in augment)
    at = seed_offset(op, seed, offset, graph.crow.device)
    sparse = method == "order_statistics"
    capacity = entry_capacity(graph, users, tau, noise_scale) if sparse else 0
    rows, _ = gumbel_softmax_op(
        graph.crow,
        graph.col,
        users,
        user_unit,
        item_unit,
        graph.n_items,
        tau,
        at,
        noise_scale,
        zeta,
        row_l2,
        sparse,
        capacity,
    )
    return rows


@torch.library.register_fake("mmssl_fast::gumbel_softmax")
def _(crow, col, users, user_unit, item_unit, n_items, tau, seed_offset, noise_scale, zeta, row_l2, *how):
    dtype = torch.float32 if user_unit is None else user_unit.dtype
    return users.new_empty(users.shape[0], n_items, dtype=dtype), users.new_empty(users.shape, dtype=dtype)


def _save(ctx, inputs, output):
    user_unit, item_unit = inputs[3:5]
    ctx.zeta, ctx.row_l2 = inputs[9:11]
    ctx.set_materialize_grads(False)
    if user_unit is not None:
        ctx.save_for_backward(user_unit, item_unit, *(output if ctx.row_l2 else ()))


def _gumbel_softmax_grad(ctx, grad, grad_inv_norm):
    """With x the rows before division, y = r x, r = 1/‖x‖ and ḡ, ρ the gradients of y and r:
    x̄ = r ḡ − c y, c = r (ḡ·y) + ρ r²; then ū = ζ x̄ V and v̄ = ζ x̄ᵀ U, as products of ḡ and y, without forming x̄."""
    none = (None,) * 13
    if (grad is None and grad_inv_norm is None) or not ctx.saved_tensors:
        return none
    user_unit, item_unit, *saved = ctx.saved_tensors
    if not saved:
        if grad is None:
            return none
        du, dv = grad @ item_unit, grad.mT @ user_unit
    else:
        rows, inv_norm = saved
        r = inv_norm[:, None]
        c = torch.zeros_like(r) if grad_inv_norm is None else grad_inv_norm[:, None] * r * r
        if grad is None:
            grad = torch.zeros_like(rows)
        c = c + r * (grad * rows).sum(1, keepdim=True)
        du = r * (grad @ item_unit) - c * (rows @ item_unit)
        dv = grad.mT @ (r * user_unit) - rows.mT @ (c * user_unit)
    return *none[:3], ctx.zeta * du, ctx.zeta * dv, *none[5:]


def _tangent(inputs, outputs, tangents):
    """Of x = P + ζ U Vᵀ: ẋ = ζ (U̇ Vᵀ + U V̇ᵀ); of y = r x, r = 1/‖x‖: ẏ = r ẋ − y (y·r ẋ)."""
    user_unit, item_unit, zeta, row_l2 = *inputs[3:5], *inputs[9:11]
    user_move, item_move = tangents[3:5]
    rows, inv_norm = outputs
    terms = [(user_move, item_unit), (user_unit, item_move)]
    moved = zeta * sum(a @ b.mT for a, b in terms if a is not None and b is not None)
    if not row_l2:
        return moved, None
    moved = inv_norm[:, None] * moved
    along = (rows * moved).sum(1, keepdim=True)
    return moved - rows * along, -inv_norm * along.squeeze(1)


gumbel_softmax_op = differentiable("gumbel_softmax", _gumbel_softmax_grad, _save, jvp=_tangent)
