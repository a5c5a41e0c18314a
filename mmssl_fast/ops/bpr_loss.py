"""bpr_loss: the Bayesian personalised ranking loss of a batch of triples."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import as_ids, check_tensors
from .derivatives import differentiable, no_context


def bpr_loss(
    user_emb: torch.Tensor, item_emb: torch.Tensor, users: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> torch.Tensor:
    """Equals ``-F.logsigmoid((user_emb[users] * (item_emb[pos] - item_emb[neg])).sum(1)).mean()``, without the gathers.

    Equation 14 as a mean over the batch. The gradients sum a row's triples in a fixed order: the same bits for any
    number of threads, without atomics. Differentiable once.

    Args:
        user_emb: [U, d] float32, float64 or bfloat16 (margins and loss are formed in float32).
        item_emb: [I, d], dtype of user_emb.
        users, pos, neg: int64 or int32 [B], in each triple a user, an item it has and one it has not interacted with.

    Returns:
        The mean loss, a scalar of user_emb's dtype; NaN for an empty batch, as torch.mean has it.

    Raises:
        IndexError: naming the first id outside [0, U) or [0, I).
        ValueError: for shapes or dtypes that do not match.
        RuntimeError: when a second derivative is asked for.
    """
    check_tensors("bpr_loss", user_emb=user_emb, item_emb=item_emb)
    users, pos, neg = as_ids("bpr_loss", "users", users), as_ids("bpr_loss", "pos", pos), as_ids("bpr_loss", "neg", neg)
    return bpr_loss_op(user_emb, item_emb, users, pos, neg)[0]


@torch.library.register_fake("mmssl_fast::bpr_loss")
def _(user_emb, item_emb, users, pos, neg):
    sums = torch.float32 if user_emb.dtype == torch.bfloat16 else user_emb.dtype
    return user_emb.new_empty(()), user_emb.new_empty(users.shape, dtype=sums)


@torch.library.register_fake("mmssl_fast::bpr_loss_bwd")
def _(user_emb, item_emb, users, pos, neg, slope):
    return user_emb.new_empty(user_emb.shape), item_emb.new_empty(item_emb.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _grad(ctx, grad, _):
    *inputs, slope = ctx.saved_tensors
    # slope is d loss_b / d margin_b; the mean divides by B.
    return *bpr_loss_bwd(*inputs, slope * (grad.to(slope.dtype) / max(slope.shape[0], 1))), None, None, None


def _no_second(ctx, *grads):
    raise RuntimeError("bpr_loss: has no second derivative; use mmssl_fast.reference.bpr_loss")


def _tangent(inputs, outputs, tangents):
    user_emb, item_emb, users, pos, neg = inputs
    user_move, item_move = tangents[:2]
    _, slope = outputs

    def gap(items):
        return items[pos].to(slope.dtype) - items[neg].to(slope.dtype)

    margin = torch.zeros_like(slope)
    if user_move is not None:
        margin = margin + (user_move[users].to(slope.dtype) * gap(item_emb)).sum(1)
    if item_move is not None:
        margin = margin + (user_emb[users].to(slope.dtype) * gap(item_move)).sum(1)
    return (slope * margin).mean().to(user_emb.dtype), None


bpr_loss_op = differentiable("bpr_loss", _grad, _save, jvp=_tangent)
bpr_loss_bwd = differentiable("bpr_loss_bwd", _no_second, no_context)
