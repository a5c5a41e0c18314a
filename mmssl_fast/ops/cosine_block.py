"""cosine_block: generated relation rows as a matrix."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_seen, check_tensors
from ..graph import SeenRows
from .derivatives import differentiable, no_context
from .unit_rows import unit_rows

KINDS = ("cosine", "dot")


def cosine_block(
    u: Tensor, v: Tensor, seen: SeenRows | None = None, kind: str = "cosine", row_l2: bool = False
) -> Tensor:
    """Equals ``unit_rows((unit_rows(u) @ unit_rows(v).T).masked_fill(seen, 0))``, masked and scaled tile by tile.

    The generated rows of equation 3. Use it where the B x I matrix itself is wanted; `RelationRows` gives what the
    discriminator makes of the rows without forming them. The same bits for any number of threads. Differentiable once.

    Args:
        u: [B, d] float32, float64 or bfloat16 (products and sums are formed in float32).
        v: [I, d], dtype of u.
        seen: CSR block of B rows whose entries are 0 (in `cosine_topk` they are excluded). On CUDA they must ascend
            within a row, which is not checked there, nor is their range.
        kind: "cosine" divides the rows of u and v by their lengths first; "dot" takes the plain product u vᵀ.
        row_l2: divide every row of the result by its length.

    Returns:
        [B, I], dtype of u. Zero rows of u, of v and of the result stay zero and have gradient 0.

    Raises:
        ValueError: for shapes or dtypes that do not match, an unknown kind, a seen item outside [0, I).
        NotImplementedError: from backward, when a second derivative is asked for.
    """
    if kind not in KINDS:
        raise ValueError(f"cosine_block: kind must be one of {KINDS}, got {kind!r}")
    check_tensors("cosine_block", u=u, v=v)
    check_seen("cosine_block", seen)
    if kind == "cosine":
        u, v = unit_rows(u), unit_rows(v)
    crow, col = (None, None) if seen is None else (seen.crow, seen.col)
    block, _ = cosine_block_op(u, v, crow, col, row_l2)
    return block


def _wide(dtype):
    return torch.float32 if dtype == torch.bfloat16 else dtype


@torch.library.register_fake("mmssl_fast::cosine_block")
def _(u, v, crow, col, row_l2):
    return u.new_empty(u.shape[0], v.shape[0]), u.new_empty(u.shape[0] if row_l2 else 0, dtype=_wide(u.dtype))


@torch.library.register_fake("mmssl_fast::cosine_block_bwd")
def _(grad, u, v, crow, col, block, inverse, need_u, need_v):
    return u.new_empty(u.shape if need_u else 0), v.new_empty(v.shape if need_v else 0)


def _save(ctx, inputs, output):
    u, v, crow, col, row_l2 = inputs
    block, inverse = output if row_l2 else (None, None)
    ctx.save_for_backward(u, v, crow, col, block, inverse)
    ctx.mark_non_differentiable(output[1])


def _cosine_block_grad(ctx, grad, _):
    u, v, crow, col, block, inverse = ctx.saved_tensors
    need_u, need_v = ctx.needs_input_grad[:2]
    u_grad, v_grad = cosine_block_bwd(grad, u, v, crow, col, block, inverse, need_u, need_v)
    return u_grad if need_u else None, v_grad if need_v else None, None, None, None


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError(
        "cosine_block: the gradient has no derivative; use mmssl_fast.reference.cosine_block for one"
    )


def _cosine_block_tangent(inputs, outputs, tangents):
    """Of x = (u vᵀ) ∘ (1 − S): ẋ = (u̇ vᵀ + u v̇ᵀ) ∘ (1 − S); of y = r x, r = 1/‖x‖: ẏ = r ẋ − y (y·r ẋ)."""
    u, v, crow, col, row_l2 = inputs
    block, inverse = outputs
    terms = [(tangents[0], v), (u, tangents[1])]
    moved = sum(cosine_block_op(a, b, crow, col, False)[0] for a, b in terms if a is not None and b is not None)
    if row_l2:
        moved = moved * inverse[:, None].to(moved.dtype)
        moved = moved - block * (block * moved).sum(1, keepdim=True)
    return moved, None


cosine_block_op = differentiable("cosine_block", _cosine_block_grad, _save, jvp=_cosine_block_tangent)
cosine_block_bwd = differentiable("cosine_block_bwd", _no_second_derivative, no_context)
