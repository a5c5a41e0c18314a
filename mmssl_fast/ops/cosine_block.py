"""cosine_block: generated relation rows as a matrix."""

from typing import Any, NoReturn

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
    """Equals ``(F.normalize(u) @ F.normalize(v).T).masked_fill(seen_mask, 0)``, optionally followed by
    ``F.normalize(rows)``, without temporaries of size B x I.

    Equation 3 of MMSSL (WWW 2023): the generated relation rows as a matrix. If you only need the output of the
    discriminator for these rows, use `RelationRows`, which does not form the matrix. The result has the same bits for
    any number of threads. Differentiable once.

    Args:
        u: [B, d] float32, float64 or bfloat16 (computed in float32), features of the users.
        v: [I, d], dtype of u, features of the items.
        seen: CSR block of B rows. Its entries have value 0 in the result (`cosine_topk` excludes them instead). On CUDA
            the items of a row must be in ascending order and in [0, I), which is not checked there.
        kind: "cosine" divides the rows of u and v by their lengths. "dot" is the plain product u vᵀ.
        row_l2: divide every row of the result by its length.

    Returns:
        [B, I], dtype of u. A zero row of u, v or the result stays zero and has gradient 0.

    Raises:
        ValueError: shapes or dtypes do not match, kind is unknown, or a seen item lies outside [0, I).
        NotImplementedError: a second derivative is requested (raised by the backward pass).

    Example:
        >>> u, v = torch.randn(2, 8), torch.randn(5, 8)
        >>> torch.allclose(cosine_block(u, v), F.normalize(u) @ F.normalize(v).T, atol=1e-6)
        True
        >>> seen = SeenRows(crow=torch.tensor([0, 1, 3]), col=torch.tensor([4, 0, 2]))  # user 0: item 4; user 1: 0, 2
        >>> (cosine_block(u, v, seen) == 0).nonzero().tolist()
        [[0, 4], [1, 0], [1, 2]]
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


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


@torch.library.register_fake("mmssl_fast::cosine_block")
def _(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None, row_l2: bool) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape[0], v.shape[0]), u.new_empty(u.shape[0] if row_l2 else 0, dtype=_wide(u.dtype))


@torch.library.register_fake("mmssl_fast::cosine_block_bwd")
def _(grad: Tensor, u: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_u, need_v = rest[-2:]
    return u.new_empty(u.shape if need_u else 0), v.new_empty(v.shape if need_v else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    u, v, crow, col, row_l2 = inputs
    block, inverse = output if row_l2 else (None, None)
    ctx.save_for_backward(u, v, crow, col, block, inverse)
    ctx.mark_non_differentiable(output[1])


def _cosine_block_grad(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    u, v, crow, col, block, inverse = ctx.saved_tensors
    need_u, need_v = ctx.needs_input_grad[:2]
    u_grad, v_grad = cosine_block_bwd(grad, u, v, crow, col, block, inverse, need_u, need_v)
    return u_grad if need_u else None, v_grad if need_v else None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    raise NotImplementedError("cosine_block has no second derivative; use mmssl_fast.reference.cosine_block")


def _cosine_block_tangent(
    inputs: tuple[Any, ...], outputs: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Tensor, None]:
    """For x = (u vᵀ) ∘ (1 − A), ẋ = (u̇ vᵀ + u v̇ᵀ) ∘ (1 − A). For y = r x with r = 1/‖x‖, ẏ = r ẋ − y (y·r ẋ)."""
    u, v, crow, col, row_l2 = inputs
    block, inverse = outputs
    terms = [(tangents[0], v), (u, tangents[1])]
    tangent = sum(cosine_block_op(a, b, crow, col, False)[0] for a, b in terms if a is not None and b is not None)
    if row_l2:
        tangent = tangent * inverse[:, None].to(tangent.dtype)
        tangent = tangent - block * (block * tangent).sum(1, keepdim=True)
    return tangent, None


cosine_block_op = differentiable("cosine_block", _cosine_block_grad, _save, jvp=_cosine_block_tangent)
cosine_block_bwd = differentiable("cosine_block_bwd", _no_second_derivative, no_context)
