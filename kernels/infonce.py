"""infonce and its gradient: the log-sum-exp of B anchors over the 2 U rows of h and e, in tiles of keys (equation 11).

Roofline on an H100. Forward takes 4 B U d operations. Backward takes 16 B U d, because it computes the products again,
both for the gradients of the anchors and of the keys; memory stays O(U d). Every product of 2 d operations needs one
exp2, of which the GPU does 3.7e12 per second. For d = 64, this limits the rate to 475 TFLOP/s: under bf16 (990 TFLOP/s)
exp2 is the limit, under TF32 (495) both are, and under IEEE float32 (67) the products are. Every block of 64 anchors
reads 8 U d bytes, from L2 if h and e fit its 50 MB, which is 16 d operations per byte. B = 1024, U = 100 000 and d = 64
need 26 + 105 GFLOP: at least 0.4 + 1.6 ms in IEEE float32, and 0.06 + 0.21 ms in TF32 or bf16.

The rows have length 1, so a logit is at most 1/τ. The exponent is therefore shifted by a constant, without a running
maximum, unless 1/τ exceeds the range of float32 exponents.

The file has over 400 lines, because forward and backward share the tiles of products and the block sizes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import arch_of, launch
from .precision import dot, dot_precision
from .shapes import cdiv, power_of_2, require, row_major, short, split
from .tiles import products, rows_of

LOG2_E = math.log2(math.e)
# Maximum range of the logits (base 2) without a running maximum. exp2(logit - shift) is 1 for cosine 1, and a normal
# float32 for cosine -1.
MAX_RANGE = 124.0


@triton.jit
def _add_exp2(top, total, x, RUNNING_MAX: tl.constexpr):
    """Adds the logits x (base 2, -inf for excluded keys) of a tile to total = Σ exp2(x - top), accumulated in
    float64."""
    if RUNNING_MAX:
        higher = tl.maximum(top, tl.max(x, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total *= tl.exp2(top - finite).to(tl.float64)
        top = higher
        x -= finite[:, None]
    return top, total + tl.sum(tl.exp2(x), 1).to(tl.float64)


@triton.jit
def infonce_fwd_kernel(
    h_ptr,  # [U, D], unit rows
    e_ptr,  # [U, D], unit rows
    ids_ptr,  # [B]
    total_ptr,  # float64 [parts, B]: Σ exp2(logit - shift), or - top
    top_ptr,  # [parts, B], with RUNNING_MAX
    anchors,
    users,
    tiles_a_part,
    scale_high,  # log2(e) / τ in two floats
    scale_low,
    shift,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    RUNNING_MAX: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The contribution of one part of the keys, of both h and e, to the sums of the anchors."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    live_a = row < anchors
    id = tl.load(ids_ptr + row, live_a, 0)
    anchor = rows_of(e_ptr, id, live_a, 0, D, BLOCK_D)
    scale = tl.cast(scale_high, ACC) + tl.cast(scale_low, ACC)
    total = tl.zeros((BLOCK_A,), tl.float64)
    top = tl.full((BLOCK_A,), float("-inf"), ACC)
    begin = part * tiles_a_part * BLOCK_K
    last = tl.minimum(begin + tiles_a_part * BLOCK_K, users)
    # Two loops, one after the other, so that h and e use the same registers and shared memory.
    for first in range(begin, last, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K).to(tl.int64)
        live_k = key < last
        h = rows_of(h_ptr, key, live_k, 0, D, BLOCK_D)
        s = products(anchor, e_ptr, id, live_a, h, h_ptr, key, live_k, D, PRECISION, ACC)
        x = tl.where(live_k[None, :], s * scale - shift, float("-inf"))
        top, total = _add_exp2(top, total, x, RUNNING_MAX)
    for first in range(begin, last, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K).to(tl.int64)
        live_k = key < last
        e = rows_of(e_ptr, key, live_k, 0, D, BLOCK_D)
        s = products(anchor, e_ptr, id, live_a, e, e_ptr, key, live_k, D, PRECISION, ACC)
        x = tl.where(live_k[None, :], s * scale - shift, float("-inf"))
        if EXCLUDE_SELF:
            x = tl.where(key[None, :] == id[:, None], float("-inf"), x)
        top, total = _add_exp2(top, total, x, RUNNING_MAX)
    tl.store(total_ptr + part * anchors + row, total, live_a)
    if RUNNING_MAX:
        tl.store(top_ptr + part * anchors + row, top, live_a)


@triton.jit
def infonce_finish_kernel(
    total_ptr,  # float64 [parts, B]
    top_ptr,  # [parts, B], with RUNNING_MAX
    h_ptr,
    e_ptr,  # [U, D]
    ids_ptr,  # [B]
    term_ptr,
    lse_ptr,  # [B]
    anchors,
    parts,
    scale_high,
    scale_low,
    shift,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    RUNNING_MAX: tl.constexpr,
    ACC: tl.constexpr,
):
    """lse = log of the sum over the parts, and term = lse - cos(h[id], e[id]) / τ."""
    LN_2: tl.constexpr = 0.6931471805599453
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.arange(0, BLOCK_P).to(tl.int64)
    live_a = row < anchors
    live = live_a[:, None] & (part < parts)[None, :]
    place = part[None, :] * anchors + row[:, None]
    total = tl.load(total_ptr + place, live, 0.0)
    level = tl.zeros((BLOCK_A,), tl.float64) + tl.cast(shift, tl.float64)
    if RUNNING_MAX:
        top = tl.load(top_ptr + place, live, float("-inf")).to(tl.float64)
        highest = tl.max(top, 1)
        # If all keys of a part are excluded, its total is 0 and its top -inf.
        total *= tl.where(total == 0, 0.0, tl.exp2(top - highest[:, None]))
        level += highest
    sum = tl.where(live_a, tl.sum(total, 1), 1.0)
    lse = (tl.log2(sum) + level) * tl.full((), LN_2, tl.float64)
    id = tl.load(ids_ptr + row, live_a, 0)
    cosine = tl.zeros((BLOCK_A,), tl.float64)
    for first in range(0, D, BLOCK_D):
        h = rows_of(h_ptr, id, live_a, first, D, BLOCK_D).to(tl.float64)
        e = rows_of(e_ptr, id, live_a, first, D, BLOCK_D).to(tl.float64)
        cosine += tl.sum(h * e, 1)
    inv_tau = (tl.cast(scale_high, tl.float64) + tl.cast(scale_low, tl.float64)) * tl.full((), LN_2, tl.float64)
    tl.store(lse_ptr + row, lse.to(ACC), live_a)
    tl.store(term_ptr + row, (lse - cosine * inv_tau).to(ACC), live_a)


@triton.jit
def _times_weights(
    s, scale, lse, push, live, keys, keys_ptr, key, live_k, out, grad, D: tl.constexpr, PRECISION: tl.constexpr
):
    """grad + w keys with w = push exp2(s scale - lse) where live: ∂loss/∂cosine without the term of the positives."""
    w = tl.where(live, push * tl.exp2(s * scale - lse), 0.0)
    if D > keys.shape[1]:
        keys = rows_of(keys_ptr, key, live_k, out, D, grad.shape[1])
    return dot(w, keys, grad, PRECISION)


@triton.jit
def infonce_bwd_anchors_kernel(
    h_ptr,
    e_ptr,  # [U, D]
    ids_ptr,  # [B]
    lse_ptr,  # [B]
    push_ptr,  # [B]
    share_ptr,  # [parts, B, D]
    anchors,
    users,
    tiles_a_part,
    scale_high,
    scale_low,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """share[part, b] = Σ_key w[b, key] key over the keys of a part, for one block of columns."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    out = tl.program_id(2) * BLOCK_OUT
    live_a = row < anchors
    id = tl.load(ids_ptr + row, live_a, 0)
    anchor = rows_of(e_ptr, id, live_a, 0, D, BLOCK_D)
    scale = tl.cast(scale_high, ACC) + tl.cast(scale_low, ACC)
    lse = tl.load(lse_ptr + row, live_a, 0.0) * tl.full((), 1.4426950408889634, ACC)
    push = tl.load(push_ptr + row, live_a, 0.0)
    grad = tl.zeros((BLOCK_A, BLOCK_OUT), ACC)
    begin = part * tiles_a_part * BLOCK_K
    last = tl.minimum(begin + tiles_a_part * BLOCK_K, users)
    for first in range(begin, last, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K).to(tl.int64)
        live_k = key < last
        live = live_a[:, None] & live_k[None, :]
        h = rows_of(h_ptr, key, live_k, 0, D, BLOCK_D)
        s = products(anchor, e_ptr, id, live_a, h, h_ptr, key, live_k, D, PRECISION, ACC)
        grad = _times_weights(
            s, scale, lse[:, None], push[:, None], live, h, h_ptr, key, live_k, out, grad, D, PRECISION
        )
    for first in range(begin, last, BLOCK_K):
        key = first + tl.arange(0, BLOCK_K).to(tl.int64)
        live_k = key < last
        live = live_a[:, None] & live_k[None, :]
        if EXCLUDE_SELF:
            live = live & (key[None, :] != id[:, None])
        e = rows_of(e_ptr, key, live_k, 0, D, BLOCK_D)
        s = products(anchor, e_ptr, id, live_a, e, e_ptr, key, live_k, D, PRECISION, ACC)
        grad = _times_weights(
            s, scale, lse[:, None], push[:, None], live, e, e_ptr, key, live_k, out, grad, D, PRECISION
        )
    column = out + tl.arange(0, BLOCK_OUT)
    to = share_ptr + (part * anchors + row)[:, None] * D + column[None, :]
    tl.store(to, grad, live_a[:, None] & (column < D)[None, :])


@triton.jit
def infonce_bwd_keys_kernel(
    h_ptr,
    e_ptr,  # [U, D]
    ids_ptr,  # [B]
    lse_ptr,  # [B]
    push_ptr,  # [B]
    grad_h_ptr,
    grad_e_ptr,  # [U, D], written whole
    anchors,
    users,
    scale_high,
    scale_low,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """grad[key] = Σ_b w[b, key] e[ids[b]] over the anchors, for the keys of h (program_id(1) = 0) or of e (1)."""
    key = tl.program_id(0).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    out = tl.program_id(2) * BLOCK_OUT
    keys_ptr, grad_ptr = h_ptr, grad_h_ptr
    within = tl.program_id(1)
    if within == 1:
        keys_ptr, grad_ptr = e_ptr, grad_e_ptr
    live_k = key < users
    scale = tl.cast(scale_high, ACC) + tl.cast(scale_low, ACC)
    keys = rows_of(keys_ptr, key, live_k, 0, D, BLOCK_D)
    grad = tl.zeros((BLOCK_K, BLOCK_OUT), ACC)
    for first in range(0, anchors, BLOCK_A):
        row = first + tl.arange(0, BLOCK_A).to(tl.int64)
        live_a = row < anchors
        id = tl.load(ids_ptr + row, live_a, 0)
        lse = tl.load(lse_ptr + row, live_a, 0.0) * tl.full((), 1.4426950408889634, ACC)
        push = tl.load(push_ptr + row, live_a, 0.0)
        anchor = rows_of(e_ptr, id, live_a, 0, D, BLOCK_D)
        s = products(keys, keys_ptr, key, live_k, anchor, e_ptr, id, live_a, D, PRECISION, ACC)
        live = live_k[:, None] & live_a[None, :]
        if EXCLUDE_SELF:
            live = live & ((key[:, None] != id[None, :]) | (within == 0))
        grad = _times_weights(
            s, scale, lse[None, :], push[None, :], live, anchor, e_ptr, id, live_a, out, grad, D, PRECISION
        )
    column = out + tl.arange(0, BLOCK_OUT)
    to = grad_ptr + key[:, None] * D + column[None, :]
    tl.store(to, grad, live_k[:, None] & (column < D)[None, :])


@triton.jit
def infonce_bwd_scatter_kernel(
    share_ptr,  # [parts, B, D]
    pull_ptr,  # [B]
    order_ptr,  # [B]: the anchors in ascending order of id
    sorted_ptr,  # [B]: their ids
    h_ptr,
    e_ptr,  # [U, D]
    grad_h_ptr,
    grad_e_ptr,  # [U, D], added to
    anchors,
    parts,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """Adds the gradients of the anchors with the same id to the rows of this id. One program adds all anchors of an id
    in a fixed order, so no atomics are needed."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    live = column < D
    id = tl.load(sorted_ptr + place)
    if id != tl.load(sorted_ptr + place - 1, place > 0, -1):
        end = place + 1
        following = tl.load(sorted_ptr + end, end < anchors, -1)
        while following == id:
            end += 1
            following = tl.load(sorted_ptr + end, end < anchors, -1)
        total = tl.zeros((BLOCK_D,), ACC)
        pull = tl.zeros((1,), ACC)
        for position in range(place, end):
            anchor = tl.load(order_ptr + position)
            pull += tl.load(pull_ptr + anchor)
            share_row_ptr = share_ptr + anchor * D
            for _ in range(parts):
                total += tl.load(share_row_ptr + column, live, 0.0)
                share_row_ptr += tl.cast(anchors, tl.int64) * D
        entry = id * D + column
        h, e = tl.load(h_ptr + entry, live, 0.0), tl.load(e_ptr + entry, live, 0.0)
        tl.store(grad_e_ptr + entry, tl.load(grad_e_ptr + entry, live, 0.0) + total + pull * h, live)
        tl.store(grad_h_ptr + entry, tl.load(grad_h_ptr + entry, live, 0.0) + pull * e, live)


def _blocks(precision: str, wide: bool, d: int, arch: int) -> tuple[int, int, int]:
    """The number of rows of a program, of rows per iteration of its loop, and of columns at a time: the largest that
    compile without spilled registers (compile_gate)."""
    if wide:
        return 32, 16, 32
    if precision == "tf32x3":  # both halves of both operands are in registers
        return (64, 32, 64 if d <= 64 and arch // 10 == 9 else 32) if arch >= 90 else (32, 32, 32)
    if d <= 64 and (arch >= 90 or precision == "bf16"):
        return 64, 64, 64
    return 64, 32, 32


class _Call:
    """The checked arguments of one call, and the block sizes that follow from them."""

    def __init__(
        self, op: str, h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool, bfloat16: bool
    ) -> None:
        require(
            h.ndim == 2 and h.shape == e.shape,
            op,
            f"h and e must both be [U, d], got {tuple(h.shape)} and {tuple(e.shape)}",
        )
        require(h.dtype == e.dtype, op, f"h and e must have the same dtype, got {short(h.dtype)} and {short(e.dtype)}")
        require(
            h.dtype in (torch.float32, torch.float64),
            op,
            f"unit rows must be float32 or float64, got {short(h.dtype)}",
        )
        require(
            ids.ndim == 1 and ids.dtype == torch.int64,
            op,
            f"ids must be int64 [B], got {short(ids.dtype)} {tuple(ids.shape)}",
        )
        require(tau > 0, op, f"tau must be positive, got {tau}")
        self.h, self.e, self.ids = row_major(h), row_major(e), row_major(ids)
        self.tau, self.anchors, (self.users, self.d) = tau, ids.shape[0], h.shape
        self.exclude_self = exclude_self
        wide = h.dtype == torch.float64
        precision = "bf16" if bfloat16 and not wide else dot_precision(h.dtype)
        # A program has block_owned rows of one side, and loops over the rows of the other side, block_looped at a time.
        self.block_owned, self.block_looped, max_block_d = _blocks(precision, wide, self.d, arch_of(h.device))
        self.block_d, self.block_out = min(power_of_2(self.d, 16), max_block_d), min(power_of_2(self.d, 16), 64)
        self.tiles_a_part, self.parts = split(cdiv(self.users, self.block_looped), cdiv(self.anchors, self.block_owned))
        self.constants: dict[str, Any] = {"D": self.d, "ACC": tl.float64 if wide else tl.float32}
        self.blocks: dict[str, Any] = {"BLOCK_D": self.block_d, "EXCLUDE_SELF": exclude_self, "PRECISION": precision}
        self.outs = cdiv(self.d, self.block_out)

    def scale(self) -> tuple[float, float]:
        """log2(e) / τ as the sum of a float32 and a remainder."""
        scale = LOG2_E / self.tau
        high = torch.tensor(scale, dtype=torch.float32).item()
        return high, scale - high


def infonce(
    h: Tensor, e: Tensor, ids: Tensor, tau: float, exclude_self: bool, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of ``torch.ops.mmssl_fast.infonce``: term and lse [B] from unit rows h and e [U, d] and
    ids int64 [B].

    The range of the ids is not checked, because it would need a synchronisation.
    """
    call = _Call("infonce", h, e, ids, tau, exclude_self, bfloat16)
    term, lse = h.new_empty(call.anchors), h.new_empty(call.anchors)
    running_max = 2 * LOG2_E / tau > MAX_RANGE
    shift = 0.0 if running_max else LOG2_E / tau
    # The kernels subtract the shift as a float32, so the same float32 must be added at the end.
    shift = torch.tensor(shift, dtype=torch.float32).item()
    total = h.new_empty(call.parts, call.anchors, dtype=torch.float64)
    top = h.new_empty(total.shape) if running_max else None
    launch(
        infonce_fwd_kernel,
        (cdiv(call.anchors, call.block_owned), call.parts),
        call.h,
        call.e,
        call.ids,
        total,
        top,
        call.anchors,
        call.users,
        call.tiles_a_part,
        *call.scale(),
        shift,
        BLOCK_A=call.block_owned,
        BLOCK_K=call.block_looped,
        RUNNING_MAX=running_max,
        **call.constants,
        **call.blocks,
    )
    launch(
        infonce_finish_kernel,
        (cdiv(call.anchors, 16),),
        total,
        top,
        call.h,
        call.e,
        call.ids,
        term,
        lse,
        call.anchors,
        call.parts,
        *call.scale(),
        shift,
        BLOCK_A=16,
        BLOCK_P=power_of_2(call.parts),
        BLOCK_D=call.block_out,
        RUNNING_MAX=running_max,
        **call.constants,
    )
    return term, lse


def infonce_bwd(
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
    """The CUDA implementation of ``torch.ops.mmssl_fast.infonce_bwd``: the gradients of h and e, [U, d] each."""
    op = "infonce_bwd"
    call = _Call(op, h, e, ids, tau, exclude_self, bfloat16)
    for x in (term_grad, lse_grad, lse):
        require(
            x.shape == ids.shape and x.dtype == h.dtype,
            op,
            f"gradients and lse must be {list(ids.shape)} of {short(h.dtype)}, got {list(x.shape)} of {short(x.dtype)}",
        )
    push, pull, lse = (term_grad + lse_grad) / tau, term_grad / -tau, row_major(lse)
    grad_h, grad_e = torch.empty_like(call.h), torch.empty_like(call.e)
    share = h.new_empty(call.parts, call.anchors, call.d)
    data = call.h, call.e, call.ids, lse, push
    launch(
        infonce_bwd_anchors_kernel,
        (cdiv(call.anchors, call.block_owned), call.parts, call.outs),
        *data,
        share,
        call.anchors,
        call.users,
        call.tiles_a_part,
        *call.scale(),
        BLOCK_A=call.block_owned,
        BLOCK_K=call.block_looped,
        BLOCK_OUT=call.block_out,
        **call.constants,
        **call.blocks,
    )
    launch(
        infonce_bwd_keys_kernel,
        (cdiv(call.users, call.block_owned), 2, call.outs),
        *data,
        grad_h,
        grad_e,
        call.anchors,
        call.users,
        *call.scale(),
        BLOCK_A=call.block_looped,
        BLOCK_K=call.block_owned,
        BLOCK_OUT=call.block_out,
        **call.constants,
        **call.blocks,
    )
    ids_sorted, order = torch.sort(call.ids, stable=True)
    launch(
        infonce_bwd_scatter_kernel,
        (call.anchors, call.outs),
        share,
        pull,
        order,
        ids_sorted,
        call.h,
        call.e,
        grad_h,
        grad_e,
        call.anchors,
        call.parts,
        warps=1,
        BLOCK_D=call.block_out,
        **call.constants,
    )
    return grad_h, grad_e
