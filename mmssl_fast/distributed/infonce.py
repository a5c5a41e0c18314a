"""infonce for several ranks: each rank sums over its own keys, and the sums of the ranks are merged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import as_ids, check_tensors
from ..ops.infonce import MIN_TAU
from ..ops.infonce import infonce as infonce_whole
from ..ops.unit_rows import unit_rows
from ..tiles import item_tiles
from .collectives import check_rows, copy_to_ranks, gather_rows, merge_logsumexp, reduce_from_ranks
from .ranks import Ranks


def infonce(
    h: Tensor, e: Tensor, ids: Tensor, tau: float, n_users: int, ranks: Ranks, exclude_self: bool = False
) -> Tensor:
    """Equals ``mmssl_fast.infonce`` (equation 11) of the whole tables, value and gradients up to rounding:
    ``(torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1) - (a * h[ids]).sum(1) / tau).mean()`` with
    h = F.normalize(torch.cat(every rank's h)), the same for e, and anchors a = e[ids].

    Every rank gathers the anchors and computes their log-sum-exp over its own rows of h and e; `merge_logsumexp`
    combines these. The value is bit-identical on every rank, but may differ in the last bits for another number of
    ranks, because the terms are added in another order. The largest intermediate is one tile of logits
    (`mmssl_fast.tiles`). Differentiable once.

    For R distinct anchors, a rank receives (2·d + 6)·R·s·(P − 1)/P bytes, and 2·R·d·s·(P − 1)/P in backward.

    Args:
        h: [U_p, d] float32, float64 or bfloat16 (computed in float32), this rank's rows. U_p may be 0.
        e: [U_p, d], dtype of h, this rank's rows of the table with the anchors.
        ids: int64 or int32 [B], the anchors: ids of the whole table, the same on every rank.
        tau: temperature, as in `mmssl_fast.infonce`.
        n_users: U, rows of the whole tables.
        ranks: the processes.
        exclude_self: leave the anchor itself out of the sum over e.

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
        return infonce_whole(h, e, ids, tau, exclude_self)
    check_tensors("infonce", h=h, e=e)
    ids = as_ids("infonce", "ids", ids)
    if h.dtype != e.dtype or h.shape != e.shape:
        raise ValueError(
            f"infonce: h and e must have the same shape and dtype, got {list(h.shape)} {h.dtype} and "
            f"{list(e.shape)} {e.dtype}"
        )
    check_rows("infonce", h, n_users, ranks)
    outside = ((ids < 0) | (ids >= n_users)).nonzero()
    if outside.numel():
        at = int(outside[0])
        raise ValueError(f"infonce: ids[{at}] = {int(ids[at])} is outside [0, {n_users})")
    dtype = h.dtype
    if dtype == torch.bfloat16:
        h, e = h.float(), e.float()
    if not tau > 0:
        raise ValueError(f"infonce: tau must be positive, got {tau}")
    if tau < MIN_TAU.get(h.dtype, 0):
        raise ValueError(f"infonce: tau must be at least {MIN_TAU[h.dtype]} for {h.dtype}, got {tau}")
    h, e = unit_rows(h), unit_rows(e)
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
    """``torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1)`` over tiles of keys, which backward computes again.

    Entry (slots[j], own[j]) of a @ e.T is left out, for every j.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, h: Tensor, e: Tensor, slots: Tensor, own: Tensor, tau: float) -> Tensor:
        parts = [a.new_full((1, a.shape[0]), -torch.inf)]  # a rank may have no keys
        for keys, without in ((h, False), (e, True)):
            for begin, end in item_tiles(a.shape[0], keys.shape[0]):
                logits = _logits(a, keys, begin, end, (slots, own) if without else None, tau)
                parts.append(logits.logsumexp(1)[None])
        lse = torch.cat(parts).logsumexp(0)
        ctx.save_for_backward(a, h, e, slots, own, lse)
        ctx.tau = tau
        return lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h, e, slots, own, lse = ctx.saved_tensors
        a_grad, scale = torch.zeros_like(a), (grad / ctx.tau)[:, None]
        key_grads = []
        for keys, without in ((h, False), (e, True)):
            keys_grad = torch.empty_like(keys)
            for begin, end in item_tiles(a.shape[0], keys.shape[0]):
                logits = _logits(a, keys, begin, end, (slots, own) if without else None, ctx.tau)
                weights = logits.sub_(lse[:, None]).exp_().mul_(scale)
                a_grad.addmm_(weights, keys[begin:end])
                torch.mm(weights.mT, a, out=keys_grad[begin:end])
            key_grads.append(keys_grad)
        return a_grad, *key_grads, None, None, None


def _logits(
    a: Tensor, keys: Tensor, begin: int, end: int, left_out: tuple[Tensor, Tensor] | None, tau: float
) -> Tensor:
    """a @ keys[begin:end].T / tau, −inf where `left_out`."""
    logits = (a @ keys[begin:end].mT).div_(tau)
    if left_out is not None:
        slots, own = left_out
        here = (own >= begin) & (own < end)
        logits[slots[here], own[here] - begin] = -torch.inf
    return logits
