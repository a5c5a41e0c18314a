"""infonce: the contrastive loss with all users as negatives (Eq. 11)."""

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..arguments import as_ids, check_tensors
from ..library import infonce_sizes  # the import also registers torch.ops.mmssl_fast
from ..precision import gemm_dtype
from .derivatives import differentiable, is_transforming, no_context
from .unit_rows import unit_rows

# On the CPU, loss and gradient are computed in one pass under two conditions. The temperature must be at least
# ONE_PASS_MIN_TAU: the pass has no running maximum, and exp(±1/τ) must be a normal float32. There may be at most
# MOST_USERS users: the exponentials of a block of anchors are kept, and with more users the block would have too few
# anchors for an efficient matrix product. In bfloat16, without AMX, they take half the memory, and at least 256 anchors
# are kept for up to MOST_USERS_IN_BFLOAT16 users.
ONE_PASS_MIN_TAU, MOST_USERS, MOST_USERS_IN_BFLOAT16 = 0.025, 1 << 15, 1 << 17
LEAST_ANCHORS = 32  # least number of distinct anchors for products of bfloat16 pieces
MIN_TAU = {torch.float32: 1e-37, torch.float64: 1e-300}  # below this, 1/τ overflows the dtype


def infonce(
    h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool = False, *, gemm: torch.dtype | None = None
) -> Tensor:
    """Equals ``(torch.cat((a @ h.T, a @ e.T), 1).div(tau).logsumexp(1) - (a * h[ids]).sum(1) / tau).mean()`` with
    h = F.normalize(h), e = F.normalize(e) and anchors a = e[ids], without forming the B x 2U matrix of logits.

    Equation 11 of MMSSL (WWW 2023), as a mean over the anchors: −log( exp s(h_u, e_u) / Σ_{u'} [exp s(h_u', e_u) +
    exp s(e_u', e_u)] ) with s = cosine / τ and u' running over ALL users. Differentiable once. The result has the same
    bits for any number of threads.

    Memory is O(U d): both sums are computed over tiles of users, and the backward pass computes the tiles again. The
    sums have a running maximum, so that the loss is finite for any allowed temperature. On the CPU with at most
    32768 users and tau ≥ 0.025, the gradient is computed together with the loss, which is faster. On the CPU, repeated
    ids are computed once. On a processor with AMX, for tau ≥ 0.025 and at least 32 distinct anchors, every float32
    operand is the sum of three bfloat16 numbers, and six of their products are added in float32, which is as accurate
    (docs/precision.md) and faster. With `gemm` on a processor with AVX512-BF16 but without AMX, the limit is 131072
    users, and exp(logits) of at least 256 anchors are kept in bfloat16: at most 16 MiB, or 1 KiB per user.

    Args:
        h: [U, d] float32, float64 or bfloat16 (computed in float32), final user embeddings, not normalised.
        e: [U, d], dtype of h, user embeddings of one modality, not normalised.
        ids: int64 or int32 [B], the anchors. A repeated id counts as often as it occurs.
        tau: temperature τ', at least 1e-37 (float64: 1e-300).
        exclude_self: leave the term u' = u out of the second sum.
        gemm: torch.bfloat16 rounds the operands of the matrix products, forward and backward; sums are float32, and the
            cosines of positive pairs are not rounded. float64 inputs are not rounded. None follows torch.autocast. On
            the CPU, it is faster on processors with AMX or AVX512-BF16.

    Returns:
        The mean loss, a scalar in the dtype of h. NaN if there are no anchors. A zero row has cosine 0 with every row,
        and gradient 0.

    Raises:
        ValueError: shapes or dtypes do not match, an id lies outside [0, U), tau is too small, or gemm is neither None,
            float32 nor bfloat16.
        NotImplementedError: a second derivative is requested (raised by the backward pass).

    Example:
        >>> h, e, ids = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([0, 3])
        >>> h_unit, e_unit = F.normalize(h), F.normalize(e)
        >>> anchors = e_unit[ids]
        >>> logits = torch.cat((anchors @ h_unit.T, anchors @ e_unit.T), 1) / 0.5
        >>> expected = (logits.logsumexp(1) - (anchors * h_unit[ids]).sum(1) / 0.5).mean()
        >>> torch.allclose(infonce(h, e, ids, tau=0.5), expected)
        True
    """
    unit_h, unit_e, ids = unit_inputs(h, e, ids, tau)
    if gemm not in (None, torch.float32, torch.bfloat16):
        raise ValueError(f"infonce: gemm must be None, torch.float32 or torch.bfloat16, got {gemm}")
    bfloat16 = (gemm or gemm_dtype(unit_h.device, unit_h.dtype)) == torch.bfloat16
    if _is_one_pass(unit_h, unit_e, ids, tau, bfloat16):
        return infonce_with_grad(unit_h, unit_e, ids, tau, exclude_self, bfloat16)[0].to(h.dtype)
    terms, _ = infonce_op(unit_h, unit_e, ids, tau, exclude_self, bfloat16)
    return terms.mean().to(h.dtype)


def unit_inputs(h: Tensor, e: Tensor, ids: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `infonce`, checked: rows of unit length, bfloat16 as float32, and int64 ids."""
    check_tensors("infonce", h=h, e=e)
    ids = as_ids("infonce", "ids", ids)
    if h.dtype != e.dtype:
        raise ValueError(f"infonce: h and e must have the same dtype, got {h.dtype} and {e.dtype}")
    if h.dtype == torch.bfloat16:
        h, e = h.float(), e.float()
    if 0 < tau < MIN_TAU.get(h.dtype, 0):
        raise ValueError(f"infonce: tau must be at least {MIN_TAU[h.dtype]} for {h.dtype}, got {tau}")
    return unit_rows(h), unit_rows(e), ids


class Workspace(NamedTuple):
    """Memory that infonce allocates on the CPU, besides the gradients of h and e.

    Attributes:
        one_pass: whether the gradient is computed together with the loss.
        anchors: number of anchors processed at once.
        shares: number of partial sums of the anchors, to be multiplied by d. Every task has its own.
        exps: number of values exp(product) that are kept for the gradient.
    """

    one_pass: bool
    anchors: int
    shares: int
    exps: int


def cpu_workspace(users: int, batch: int, pieces: bool | None = None, bfloat16: bool = False) -> Workspace:
    """The memory of one differentiable call on the CPU for h and e [users, d] and `batch` distinct anchors, counted in
    elements of the dtype of h. The block sizes come from csrc/cpu/infonce.h. The trainer plans its memory with it.

    pieces: whether the products are those of bfloat16 pieces, for which d is a multiple of 32. None: those of a float32
    call with tau ≥ 0.025 on this processor. bfloat16: whether the operands of products are rounded.

    Example:
        >>> cpu_workspace(1000, 1024, pieces=False)
        Workspace(one_pass=True, anchors=256, shares=2048, exps=512000)
    """
    sizes = infonce_sizes()
    most_kept = _kept(bfloat16) if batch >= LEAST_ANCHORS else 0
    one_pass = users <= (MOST_USERS_IN_BFLOAT16 if most_kept else MOST_USERS)
    pieces = bool(sizes["pieces"]) if pieces is None else pieces
    kept = one_pass and not (pieces and batch >= LEAST_ANCHORS)
    one_pass_anchors = max(sizes["min_anchors"], min(sizes["exps"] // max(2 * users, 1), sizes["anchors"]))
    exps = 2 * users
    if one_pass and most_kept:
        whole = most_kept // max(2 * users, 1) // 128 * 128
        one_pass_anchors = max(sizes["kept_anchors"], min(whole, sizes["block"]))
        exps = users  # of half the width
    anchors = min(batch, one_pass_anchors if kept else sizes["block"])
    tiles = -(-users // sizes["keys"])
    chunk = max(-(-tiles // sizes["tasks"]), 1) * sizes["keys"]  # keys per task
    return Workspace(one_pass, anchors, 2 * -(-users // chunk) * anchors, exps * anchors if kept else 0)


def _kept(bfloat16: bool) -> int:
    """The maximum number of exponentials that a call keeps in bfloat16, 0 if it keeps none in this way."""
    return infonce_sizes()["kept"] if bfloat16 else 0


def _is_one_pass(h: Tensor, e: Tensor, ids: Tensor, tau: float, bfloat16: bool) -> bool:
    differentiated = torch.is_grad_enabled() and (h.requires_grad or e.requires_grad)
    most = MOST_USERS_IN_BFLOAT16 if _kept(bfloat16) and h.dtype == torch.float32 else MOST_USERS
    supported = h.device.type == "cpu" and tau >= ONE_PASS_MIN_TAU and h.shape[0] <= most
    return differentiated and supported and ids.numel() > 0


@torch.library.register_fake("mmssl_fast::infonce")
def _(
    h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    return h.new_empty(ids.shape), h.new_empty(ids.shape)


@torch.library.register_fake("mmssl_fast::infonce_bwd")
def _(
    term_grad: Tensor,
    lse_grad: Tensor,
    h: Tensor,
    e: Tensor,
    ids: Tensor,
    lse: Tensor,
    tau: float,
    exclude_self: bool,
    bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), e.new_empty(e.shape)


@torch.library.register_fake("mmssl_fast::infonce_with_grad")
def _(
    h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool, bfloat16: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(()), h.new_empty(h.shape), e.new_empty(e.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    h, e, ids, *ctx.options = inputs
    ctx.save_for_backward(h, e, ids, output[1])


def _infonce_grad(ctx: Any, term_grad: Tensor, lse_grad: Tensor) -> tuple[Tensor | None, ...]:
    h, e, ids, lse = ctx.saved_tensors
    h_grad, e_grad = infonce_bwd(term_grad, lse_grad, h, e, ids, lse, *ctx.options)
    return h_grad, e_grad, None, None, None, None


def _save_grads(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    h, e, ids, *ctx.options = inputs
    ctx.save_for_backward(h, e, ids, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _scaled_grads(ctx: Any, grad: Tensor, _h_grad: Tensor | None, _e_grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None, None
    h, e, ids, h_grad, e_grad = ctx.saved_tensors
    # With create_graph, use the op that raises an error if its gradient is differentiated.
    if torch.is_grad_enabled() or is_transforming():
        with torch.no_grad():
            _, lse = infonce_op(h, e, ids, *ctx.options)
        term_grad = (grad / ids.numel()).expand(ids.shape)
        h_grad, e_grad = infonce_bwd(term_grad, torch.zeros_like(lse), h, e, ids, lse, *ctx.options)
        return h_grad, e_grad, None, None, None, None
    return grad * h_grad, grad * e_grad, None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> NoReturn:
    raise NotImplementedError("infonce has no second derivative; use mmssl_fast.reference.infonce")


infonce_op = differentiable("infonce", _infonce_grad, _save)
infonce_bwd = differentiable("infonce_bwd", _no_second_derivative, no_context)
infonce_with_grad = differentiable("infonce_with_grad", _scaled_grads, _save_grads, public="infonce")
