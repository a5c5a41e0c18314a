"""infonce for several ranks: each rank sums over its own keys, and the sums of the ranks are merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..ops.infonce import ONE_PASS_MIN_TAU, unit_inputs
from ..ops.infonce import infonce as infonce_whole
from ..tiles import item_tiles
from .collectives import copy_to_ranks, gather_rows, merge_logsumexp, reduce_from_ranks
from .ranks import Ranks
from .transfers import check_rows

SAVED_EXPS = 1 << 25  # maximum number of exponentials that are kept for the gradient (128 MiB of float32)


def infonce(
    h: Tensor,
    e: Tensor,
    ids: Tensor,
    tau: float,
    n_users: int,
    ranks: Ranks,
    exclude_self: bool = False,
    *,
    gemm: torch.dtype | None = None,
) -> Tensor:
    """Equals ``mmssl_fast.infonce`` (equation 11) of the whole tables, value and gradients up to rounding:
    ``(torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1) - (a * h[ids]).sum(1) / tau).mean()`` with
    h = F.normalize(torch.cat(every rank's h)), the same for e, and anchors a = e[ids].

    Every rank gathers the anchors and computes their log-sum-exp over its own rows of h and e; `merge_logsumexp`
    combines these. The value is bit-identical on every rank, but may differ in the last bits for another number of
    ranks, because the terms are added in another order. Up to 2²⁵ exponentials are kept for the backward pass. If there
    are more, or tau is below 0.025, both passes form one tile of logits at a time (`mmssl_fast.tiles`). Differentiable
    once.

    For R distinct anchors, a rank receives (2·d + 6)·R·s·(P − 1)/P bytes, and 2·R·d·s·(P − 1)/P in backward.

    Args:
        h: [U_p, d] float32, float64 or bfloat16 (computed in float32), this rank's rows. U_p may be 0.
        e: [U_p, d], dtype of h, this rank's rows of the table with the anchors.
        ids: int64 or int32 [B], the anchors: ids of the whole table, the same on every rank.
        tau: temperature, as in `mmssl_fast.infonce`.
        n_users: U, rows of the whole tables.
        ranks: the processes.
        exclude_self: leave the anchor itself out of the sum over e.
        gemm: as in `mmssl_fast.infonce` for one process. The products of several ranks are always float32.

    Returns:
        The mean loss over the anchors, a scalar in the dtype of h. NaN if there are no anchors.

    Raises:
        ValueError: as in `mmssl_fast.infonce`, and if the number of rows of h or e is not that of this rank.
        RuntimeError: a second derivative is requested (raised by the backward pass).

    Example:
        >>> import torch.nn.functional as F
        >>> from mmssl_fast.distributed import start
        >>> h, e, ids = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([0, 3])
        >>> h_unit, e_unit = F.normalize(h), F.normalize(e)
        >>> anchors = e_unit[ids]
        >>> logits = torch.cat((anchors @ h_unit.T, anchors @ e_unit.T), 1) / 0.5
        >>> expected = (logits.logsumexp(1) - (anchors * h_unit[ids]).sum(1) / 0.5).mean()
        >>> torch.allclose(infonce(h, e, ids, 0.5, 6, start()), expected)
        True
    """
    if ranks.size == 1:
        return infonce_whole(h, e, ids, tau, exclude_self, gemm=gemm)
    checked = unit_inputs(h, e, ids, tau)
    dtype, (h, e, ids) = h.dtype, checked
    if h.shape != e.shape:
        raise ValueError(f"infonce: h and e must have the same shape, got {list(h.shape)} and {list(e.shape)}")
    if not tau > 0:
        raise ValueError(f"infonce: tau must be positive, got {tau}")
    check_rows("infonce", h, n_users, ranks)
    outside = ((ids < 0) | (ids >= n_users)).nonzero()
    if outside.numel():
        at = int(outside[0])
        raise ValueError(f"infonce: ids[{at}] = {int(ids[at])} is outside [0, {n_users})")
    distinct, counts = torch.unique(ids, return_counts=True)
    first, last = ranks.span(n_users)
    slots = ((distinct >= first) & (distinct < last)).nonzero().flatten()
    own = distinct[slots] - first
    # The rank of an anchor has both rows of its positive pair, so that one number is sent instead of a row.
    pairs = (e[own] * h[own]).sum(1)
    positive = reduce_from_ranks(pairs.new_zeros(len(distinct)).index_put((slots,), pairs), ranks)
    anchors = copy_to_ranks(gather_rows(e, distinct, n_users, ranks), ranks)
    left_out = (slots, own) if exclude_self else (slots[:0], own[:0])
    lse = merge_logsumexp(_KeyLogSumExp.apply(anchors, h, e, *left_out, tau), ranks)
    return (((lse - positive / tau) * counts).sum() / ids.numel()).to(dtype)


class _KeyLogSumExp(torch.autograd.Function):
    """``torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1)`` without the entries (slots[j], own[j]) of a @ e.T.

    If there are at most SAVED_EXPS logits, and their exponentials can neither overflow nor vanish, the exponentials are
    kept for the backward pass. Otherwise both passes compute tiles of logits.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, e: Tensor, slots: Tensor, own: Tensor, tau: float) -> Tensor:
        ctx.tau, exps = tau, []
        if tau >= ONE_PASS_MIN_TAU and 2 * a.shape[0] * h.shape[0] <= SAVED_EXPS:
            exps = [(a / tau @ keys.mT).exp_() for keys in (h, e)]
            exps[1][slots, own] = 0
            lse = torch.stack([one.sum(1) for one in exps]).sum(0).log()
        else:
            parts = [a.new_full((1, a.shape[0]), -torch.inf)]  # a rank may have no keys
            for *_, logits in _tiles(a, h, e, slots, own, tau):
                parts.append(logits.logsumexp(1)[None])
            lse = torch.cat(parts).logsumexp(0)
        ctx.save_for_backward(a, h, e, slots, own, lse, *exps)
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h, e, slots, own, lse, *exps = ctx.saved_tensors
        grad = (grad / ctx.tau)[:, None]
        if exps:
            rate = torch.where(lse[:, None] == -torch.inf, 0, grad * (-lse[:, None]).exp())
            a_grad = (exps[0] @ h).addmm_(exps[1], e).mul_(rate)
            h_grad, e_grad = (one.mT @ (a * rate) for one in exps)
            return a_grad, h_grad, e_grad, None, None, None
        a_grad, key_grads = torch.zeros_like(a), (torch.empty_like(h), torch.empty_like(e))
        for side, begin, end, logits in _tiles(a, h, e, slots, own, ctx.tau):
            weights = logits.sub_(lse[:, None]).exp_().mul_(grad)
            a_grad.addmm_(weights, (h, e)[side][begin:end])
            torch.mm(weights.mT, a, out=key_grads[side][begin:end])
        return a_grad, *key_grads, None, None, None


def _tiles(
    a: Tensor, h: Tensor, e: Tensor, slots: Tensor, own: Tensor, tau: float
) -> Iterator[tuple[int, int, int, Tensor]]:
    """(0, begin, end, a @ h[begin:end].T / tau) for all tiles of h, and (1, …) for those of e."""
    for side, keys in enumerate((h, e)):
        for begin, end in item_tiles(a.shape[0], keys.shape[0]):
            logits = (a @ keys[begin:end].mT).div_(tau)
            if side:
                here = (own >= begin) & (own < end)
                logits[slots[here], own[here] - begin] = -torch.inf
            yield side, begin, end, logits
