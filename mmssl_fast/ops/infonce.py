"""infonce: the contrastive loss with all users as negatives."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import as_ids, check_tensors
from ..library import infonce_sizes  # registers torch.ops.mmssl_fast as well
from .derivatives import differentiable, is_transforming, no_context
from .unit_rows import unit_rows

# Where the CPU makes the gradient in one pass with the loss: exponentials without a running maximum must stay normal
# float32, and the few anchors held at once must not become fewer than a product wants.
LEAST_TAU, MOST_USERS = 0.025, 1 << 15
LEAST = {torch.float32: 1e-37, torch.float64: 1e-300}  # a cosine over a τ far below is more than the type holds


def infonce(h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool = False) -> Tensor:
    """Equals ``(torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1) - (a * h[ids]).sum(1) / tau).mean()`` with unit
    rows h, e and anchors a = e[ids], without forming a B x U matrix.

    Equation 11, the mean over the anchors: −log( exp s(h_u, e_u) / Σ_{u'∈U} [exp s(h_u', e_u) + exp s(e_u', e_u)] ),
    s = cosine / τ, the negatives being ALL users. Both sums are formed in one pass over tiles of keys, which backward
    makes again: memory is O(U d). The sums carry a running maximum, so the loss is finite at any τ from 1e-37 up, of
    float64 1e-300. Up to MOST_USERS users and from LEAST_TAU up, a differentiated call on the CPU forms the gradient
    with the loss, block by block of anchors, and backward scales it. On the CPU an id that occurs many times takes the
    time of one. The same bits for any number of threads. Differentiable once.

    Args:
        h: [U, d] final embeddings, float32, float64 or bfloat16 (computed in float32); not normalised.
        e: [U, d] embeddings of one modality, dtype of h.
        ids: int64 or int32 [B], the anchors; repeats count as often as they occur.
        tau: temperature τ' > 0.
        exclude_self: leave u' = u out of the second sum.

    Returns:
        Scalar, dtype of h; NaN for no anchors. A zero row has cosine 0 with everything and gradient 0.

    Raises:
        ValueError: for shapes or dtypes that do not match, an id outside [0, U), or tau below 1e-37,
            of float64 1e-300.
        NotImplementedError: from backward, when a second derivative is asked for.
    """
    check_tensors("infonce", h=h, e=e)
    ids = as_ids("infonce", "ids", ids)
    dtype = h.dtype
    if dtype != e.dtype:
        raise ValueError(f"infonce: h is {dtype}, e is {e.dtype}")
    if dtype == torch.bfloat16:
        h, e = h.float(), e.float()
    if 0 < tau < LEAST.get(h.dtype, 0):
        raise ValueError(f"infonce: tau must be at least {LEAST[h.dtype]} for {h.dtype}, got {tau}")
    h, e = unit_rows(h), unit_rows(e)
    if _is_one_pass(h, e, ids, tau):
        return infonce_with_grad(h, e, ids, tau, exclude_self)[0].to(dtype)
    terms, _ = infonce_op(h, e, ids, tau, exclude_self)
    return terms.mean().to(dtype)


class Workspace(NamedTuple):
    """What the CPU allocates besides the gradients of h and e [U, d].

    one_pass: whether a differentiated call forms the gradient with the loss. anchors: how many are worked on at once.
    shares: values of the anchors' sums, one share a task of keys, for each of the d columns. exps: values of
    exp(product) kept for the gradient.
    """

    one_pass: bool
    anchors: int
    shares: int
    exps: int


def cpu_workspace(users: int, batch: int) -> Workspace:
    """The memory that one differentiated call takes on the CPU, in values of h's dtype, for h and e [users, d] and
    `batch` different anchors. With the sizes of csrc/cpu/infonce.h; for whoever plans memory.

    Example:
        >>> cpu_workspace(1000, 1024)
        Workspace(one_pass=True, anchors=256, shares=2048, exps=512000)
    """
    sizes, one_pass = infonce_sizes(), users <= MOST_USERS
    most = max(sizes["min_anchors"], min(sizes["exps"] // max(2 * users, 1), sizes["anchors"]))
    anchors = min(batch, most if one_pass else sizes["block"])
    tiles = -(-users // sizes["keys"])
    chunk = max(-(-tiles // sizes["tasks"]), 1) * sizes["keys"]  # keys of a task
    return Workspace(one_pass, anchors, 2 * -(-users // chunk) * anchors, 2 * users * anchors if one_pass else 0)


def _is_one_pass(h: Tensor, e: Tensor, ids: Tensor, tau: float) -> bool:
    differentiated = torch.is_grad_enabled() and (h.requires_grad or e.requires_grad)
    return (
        differentiated and h.device.type == "cpu" and tau >= LEAST_TAU and h.shape[0] <= MOST_USERS and ids.numel() > 0
    )


@torch.library.register_fake("mmssl_fast::infonce")
def _(h, e, ids, tau, exclude_self):
    return h.new_empty(ids.shape), h.new_empty(ids.shape)


@torch.library.register_fake("mmssl_fast::infonce_bwd")
def _(term_grad, lse_grad, h, e, ids, lse, tau, exclude_self):
    return h.new_empty(h.shape), e.new_empty(e.shape)


@torch.library.register_fake("mmssl_fast::infonce_with_grad")
def _(h, e, ids, tau, exclude_self):
    return h.new_empty(()), h.new_empty(h.shape), e.new_empty(e.shape)


def _save(ctx, inputs, output):
    h, e, ids, ctx.tau, ctx.exclude_self = inputs
    ctx.save_for_backward(h, e, ids, output[1])


def _infonce_grad(ctx, term_grad, lse_grad):
    h, e, ids, lse = ctx.saved_tensors
    h_grad, e_grad = infonce_bwd(term_grad, lse_grad, h, e, ids, lse, ctx.tau, ctx.exclude_self)
    return h_grad, e_grad, None, None, None


def _save_grads(ctx, inputs, output):
    h, e, ids, ctx.tau, ctx.exclude_self = inputs
    ctx.save_for_backward(h, e, ids, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _scaled_grads(ctx, grad, _h_grad, _e_grad):
    if grad is None:
        return None, None, None, None, None
    h, e, ids, h_grad, e_grad = ctx.saved_tensors
    # create_graph: through the op that knows it has no second derivative
    if torch.is_grad_enabled() or is_transforming():
        with torch.no_grad():
            _, lse = infonce_op(h, e, ids, ctx.tau, ctx.exclude_self)
        term_grad = (grad / ids.numel()).expand(ids.shape)
        h_grad, e_grad = infonce_bwd(term_grad, torch.zeros_like(lse), h, e, ids, lse, ctx.tau, ctx.exclude_self)
        return h_grad, e_grad, None, None, None
    return grad * h_grad, grad * e_grad, None, None, None


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError("infonce: the gradient has no derivative; use mmssl_fast.reference.infonce for one")


infonce_op = differentiable("infonce", _infonce_grad, _save)
infonce_bwd = differentiable("infonce_bwd", _no_second_derivative, no_context)
infonce_with_grad = differentiable("infonce_with_grad", _scaled_grads, _save_grads, public="infonce")
