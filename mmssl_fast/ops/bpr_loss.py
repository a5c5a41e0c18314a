"""bpr_loss: the Bayesian personalised ranking loss of a batch of triples."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast

_ops = torch.ops.mmssl_fast


def bpr_loss(
    user_emb: torch.Tensor, item_emb: torch.Tensor, users: torch.Tensor, pos: torch.Tensor, neg: torch.Tensor
) -> torch.Tensor:
    """Equals ``-F.logsigmoid((user_emb[users] * (item_emb[pos] - item_emb[neg])).sum(1)).mean()``, without the gathers.

    Equation 14 as a mean over the batch. The gradients sum a row's triples in a fixed order: the same bits for any
    number of threads, without atomics. Differentiable once.

    Args:
        user_emb: [U, d] float32, float64 or bfloat16 (margins and loss are formed in float32).
        item_emb: [I, d], dtype of user_emb.
        users, pos, neg: int64 [B], in each triple a user, an item it has and one it has not interacted with.

    Returns:
        The mean loss, a scalar of user_emb's dtype; NaN for an empty batch, as torch.mean has it.

    Raises:
        IndexError: naming the first id outside [0, U) or [0, I).
        ValueError: for shapes or dtypes that do not match.
        RuntimeError: when a second derivative is asked for.
    """
    return _ops.bpr_loss(user_emb, item_emb, users, pos, neg)[0]


@torch.library.register_fake("mmssl_fast::bpr_loss")
def _(user_emb, item_emb, users, pos, neg):
    sums = torch.float32 if user_emb.dtype == torch.bfloat16 else user_emb.dtype
    return user_emb.new_empty(()), user_emb.new_empty(users.shape, dtype=sums)


@torch.library.register_fake("mmssl_fast::bpr_loss_bwd")
def _(user_emb, item_emb, users, pos, neg, slope):
    return user_emb.new_empty(user_emb.shape), item_emb.new_empty(item_emb.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])


def _grad(ctx, grad, _):
    *inputs, slope = ctx.saved_tensors
    # slope is d loss_b / d margin_b; the mean divides by B.
    return *_ops.bpr_loss_bwd(*inputs, slope * (grad.to(slope.dtype) / max(slope.shape[0], 1))), None, None, None


def _no_second(ctx, *grads):
    raise RuntimeError("bpr_loss: has no second derivative")


torch.library.register_autograd("mmssl_fast::bpr_loss", _grad, setup_context=_save)
torch.library.register_autograd("mmssl_fast::bpr_loss_bwd", _no_second)
