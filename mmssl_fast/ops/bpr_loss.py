"""bpr_loss: the Bayesian personalised ranking loss of a batch of (user, positive, negative) triples."""

from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import as_ids, check_tensors
from .derivatives import differentiable, no_context


def bpr_loss(
    user_emb: torch.Tensor, item_emb: torch.Tensor, users: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> torch.Tensor:
    """Equals ``-F.logsigmoid((user_emb[users] * (item_emb[pos] - item_emb[neg])).sum(1)).mean()``, without copying the
    gathered rows.

    Equation 14 of MMSSL (WWW 2023), as a mean over the batch. The gradient adds the triples of an embedding row in a
    fixed order and without atomics, so it has the same bits for any number of threads. Differentiable once.

    Args:
        user_emb: [U, d] float32, float64 or bfloat16 (computed in float32).
        item_emb: [I, d], dtype of user_emb.
        users, pos, neg: int64 or int32 [B]. Triple b is a user, an item the user interacted with, and an item the user
            did not interact with.

    Returns:
        The mean loss, a scalar in the dtype of user_emb. NaN for an empty batch, like torch.mean.

    Raises:
        IndexError: an id lies outside [0, U) or [0, I).
        ValueError: shapes or dtypes do not match.
        RuntimeError: a second derivative is requested.

    Example:
        >>> user_emb, item_emb = torch.randn(3, 8), torch.randn(5, 8)
        >>> users, pos, neg = torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([3, 0])
        >>> margins = (user_emb[users] * (item_emb[pos] - item_emb[neg])).sum(1)
        >>> torch.allclose(bpr_loss(user_emb, item_emb, users, pos, neg), -F.logsigmoid(margins).mean())
        True
    """
    check_tensors("bpr_loss", user_emb=user_emb, item_emb=item_emb)
    users, pos, neg = as_ids("bpr_loss", "users", users), as_ids("bpr_loss", "pos", pos), as_ids("bpr_loss", "neg", neg)
    return bpr_loss_op(user_emb, item_emb, users, pos, neg)[0]


@torch.library.register_fake("mmssl_fast::bpr_loss")
def _(user_emb: Tensor, item_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    sums = torch.float32 if user_emb.dtype == torch.bfloat16 else user_emb.dtype
    return user_emb.new_empty(()), user_emb.new_empty(users.shape, dtype=sums)


@torch.library.register_fake("mmssl_fast::bpr_loss_bwd")
def _(
    user_emb: Tensor, item_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    return user_emb.new_empty(user_emb.shape), item_emb.new_empty(item_emb.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _grad(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    *inputs, slope = ctx.saved_tensors
    # slope is ∂loss_b/∂margin_b of triple b. The mean divides by B.
    return *bpr_loss_bwd(*inputs, slope * (grad.to(slope.dtype) / max(slope.shape[0], 1))), None, None, None


def _no_second(ctx: Any, *grads: Tensor) -> NoReturn:
    raise RuntimeError("bpr_loss has no second derivative; use mmssl_fast.reference.bpr_loss")


def _tangent(inputs: tuple[Any, ...], outputs: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Tensor, None]:
    user_emb, item_emb, users, pos, neg = inputs
    user_tangent, item_tangent = tangents[:2]
    _, slope = outputs

    def difference(items: Tensor) -> Tensor:
        return items[pos].to(slope.dtype) - items[neg].to(slope.dtype)

    margin_tangent = torch.zeros_like(slope)
    if user_tangent is not None:
        margin_tangent = margin_tangent + (user_tangent[users].to(slope.dtype) * difference(item_emb)).sum(1)
    if item_tangent is not None:
        margin_tangent = margin_tangent + (user_emb[users].to(slope.dtype) * difference(item_tangent)).sum(1)
    return (slope * margin_tangent).mean().to(user_emb.dtype), None


bpr_loss_op = differentiable("bpr_loss", _grad, _save, jvp=_tangent)
bpr_loss_bwd = differentiable("bpr_loss_bwd", _no_second, no_context)
