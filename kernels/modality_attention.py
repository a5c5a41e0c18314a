"""modality_mix, the op behind modality_attention, and its gradient: the attention between the modalities of a node
(equation 9).

Roofline: limited by memory. Forward reads q, k and e (3 M d values per node) and writes heads · d values. Backward
reads q, k, e and the gradient, and writes three times M d values. In float32 with M = 3, d = 64 and heads = 4, that is
3.3 kB and 5.6 kB per node, for about 2 M² d + 2 M heads d = 2.7 k and 8 k operations. This is below 1.5 operations per
byte, and an H100 is limited by memory up to 20. At 3.35 TB/s, 100 000 nodes take at least 0.10 ms and 0.17 ms. The
attention weights and logits stay in registers.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch
from .shapes import cdiv, power_of_2, require, row_major, short


@triton.jit
def _attention(q, k, live_modality, scale):
    """The softmax over the modalities b of q · k[b], [N, M], for q [N, C] and k [N, M, C]."""
    logit = tl.sum(q[:, None, :] * k, 2) * scale
    logit = tl.where(live_modality[None, :], logit, float("-inf"))
    share = tl.exp(logit - tl.max(logit, 1)[:, None])
    return share / tl.sum(share, 1)[:, None]


@triton.jit
def modality_mix_fwd_kernel(
    q_ptr,  # [M, N, D]; head h has columns [h C, (h + 1) C), C = D / heads
    k_ptr,  # [M, N, D]
    e_ptr,  # [M, N, D]
    mixed_ptr,  # [N, HEADS, D]
    nodes,
    plane,  # N D
    M: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
):
    """mixed[n, h] = Σ_b w[h, b] e[b, n], where w[h, b] is the mean over a of softmax_b(q[a, n, h] · k[b, n, h]
    SCALE)."""
    C: tl.constexpr = D // HEADS
    node = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    modality, column, within = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    live_node, live_modality = node < nodes, modality < M
    live = live_node[:, None, None] & live_modality[None, :, None]
    cube = modality.to(tl.int64)[None, :, None] * plane + node[:, None, None] * D
    scale = tl.full((), SCALE, ACC)
    share_of_one = tl.full((), 1.0 / M, ACC)
    live_row = live_node[:, None] & (column < D)[None, :]
    e = tl.load(e_ptr + cube + column[None, None, :], live & (column < D)[None, None, :], 0.0).to(ACC)
    for head in range(HEADS):
        live_c = within < C
        k = tl.load(k_ptr + cube + head * C + within[None, None, :], live & live_c[None, None, :], 0.0).to(ACC)
        weight = tl.zeros((BLOCK_N, BLOCK_M), ACC)
        for a in tl.static_range(M):
            q_at = q_ptr + tl.cast(a, tl.int64) * plane + node[:, None] * D + head * C + within[None, :]
            q = tl.load(q_at, live_node[:, None] & live_c[None, :], 0.0).to(ACC)
            weight += _attention(q, k, live_modality, scale)
        mixed = tl.sum((weight * share_of_one)[:, :, None] * e, 1)
        to = mixed_ptr + (node[:, None] * HEADS + head) * D + column[None, :]
        tl.store(to, mixed.to(mixed_ptr.dtype.element_ty), live_row)


@triton.jit
def modality_mix_bwd_kernel(
    grad_ptr,  # [N, HEADS, D]
    q_ptr,
    k_ptr,
    e_ptr,  # [M, N, D] each
    grad_q_ptr,
    grad_k_ptr,
    grad_e_ptr,  # [M, N, D] each
    nodes,
    plane,  # N D
    M: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
):
    """With p = softmax_b and g = ∂loss/∂mixed, dw[b] = g · e[b] and dlogit[a, b] = p (dw[b] − Σ_b' p dw[b']) / M."""
    C: tl.constexpr = D // HEADS
    node = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    modality, column, within = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    live_node, live_modality = node < nodes, modality < M
    live = live_node[:, None, None] & live_modality[None, :, None]
    cube = modality.to(tl.int64)[None, :, None] * plane + node[:, None, None] * D
    scale = tl.full((), SCALE, ACC)
    share_of_one = tl.full((), 1.0 / M, ACC)
    live_row = live_node[:, None] & (column < D)[None, :]
    e = tl.load(e_ptr + cube + column[None, None, :], live & (column < D)[None, None, :], 0.0).to(ACC)
    grad_e = tl.zeros((BLOCK_N, BLOCK_M, BLOCK_D), ACC)
    for head in range(HEADS):
        live_c = within < C
        live_head = live & live_c[None, None, :]
        live_q = live_node[:, None] & live_c[None, :]
        grad = tl.load(grad_ptr + (node[:, None] * HEADS + head) * D + column[None, :], live_row, 0.0).to(ACC)
        k = tl.load(k_ptr + cube + head * C + within[None, None, :], live_head, 0.0).to(ACC)
        dw = tl.sum(grad[:, None, :] * e, 2) * share_of_one
        weight = tl.zeros((BLOCK_N, BLOCK_M), ACC)
        grad_k = tl.zeros((BLOCK_N, BLOCK_M, BLOCK_C), ACC)
        for a in tl.static_range(M):
            q_at = tl.cast(a, tl.int64) * plane + node[:, None] * D + head * C + within[None, :]
            q = tl.load(q_ptr + q_at, live_q, 0.0).to(ACC)
            p = _attention(q, k, live_modality, scale)
            weight += p
            slope = p * (dw - tl.sum(p * dw, 1)[:, None]) * scale
            grad_q = tl.sum(slope[:, :, None] * k, 1)
            tl.store(grad_q_ptr + q_at, grad_q.to(grad_q_ptr.dtype.element_ty), live_q)
            grad_k += slope[:, :, None] * q[:, None, :]
        k_to = grad_k_ptr + cube + head * C + within[None, None, :]
        tl.store(k_to, grad_k.to(grad_k_ptr.dtype.element_ty), live_head)
        grad_e += (weight * share_of_one)[:, :, None] * grad[:, None, :]
    e_to = grad_e_ptr + cube + column[None, None, :]
    tl.store(e_to, grad_e.to(grad_e_ptr.dtype.element_ty), live & (column < D)[None, None, :])


def _check(op: str, q: Tensor, k: Tensor, e: Tensor, heads: int) -> None:
    shape = tuple(e.shape)
    require(
        e.ndim == 3 and shape[0] > 0 and shape[2] > 0,
        op,
        f"e must be [M, N, d] with M, d ≥ 1, got {shape}",
    )
    require(
        q.shape == k.shape == e.shape,
        op,
        f"q, k and e must have the same shape, got {tuple(q.shape)}, {tuple(k.shape)} and {shape}",
    )
    dtypes = ", ".join(short(x.dtype) for x in (q, k, e))
    require(
        q.dtype == k.dtype == e.dtype and e.dtype in (torch.float32, torch.float64, torch.bfloat16),
        op,
        f"q, k and e must all be float32, float64 or bfloat16, got {dtypes}",
    )
    require(heads > 0 and shape[2] % heads == 0, op, f"d = {shape[2]} is not a multiple of heads = {heads}")


def _launch(kernel, e: Tensor, heads: int, budget: int, *tensors: Tensor) -> None:
    modalities, nodes, d = e.shape
    block_m, block_d = power_of_2(modalities), power_of_2(d)
    block_n = min(max(budget // (block_m * block_d), 1), 32)
    launch(
        kernel,
        (cdiv(nodes, block_n),),
        *tensors,
        nodes,
        nodes * d,
        warps=8 if block_m * block_d > budget else 4,
        M=modalities,
        D=d,
        HEADS=heads,
        BLOCK_N=block_n,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        BLOCK_C=power_of_2(d // heads),
        SCALE=1 / math.sqrt(d // heads),
        ACC=tl.float64 if e.dtype == torch.float64 else tl.float32,
    )


def modality_mix(q: Tensor, k: Tensor, e: Tensor, heads: int) -> Tensor:
    """The CUDA implementation of ``torch.ops.mmssl_fast.modality_mix``: [N, heads · d] from q, k and e [M, N, d]."""
    _check("modality_mix", q, k, e, heads)
    q, k, e = (row_major(x) for x in (q, k, e))
    mixed = e.new_empty(e.shape[1], heads * e.shape[2])
    _launch(modality_mix_fwd_kernel, e, heads, 4096, q, k, e, mixed)
    return mixed


def modality_mix_bwd(grad: Tensor, q: Tensor, k: Tensor, e: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The CUDA implementation of ``torch.ops.mmssl_fast.modality_mix_bwd``: gradients of q, k and e, [M, N, d] each."""
    op = "modality_mix_bwd"
    _check(op, q, k, e, heads)
    expected = e.shape[1], heads * e.shape[2]
    require(grad.shape == expected, op, f"grad must be {list(expected)}, got {tuple(grad.shape)}")
    require(grad.dtype == e.dtype, op, f"grad must have the dtype of e, {short(e.dtype)}, got {short(grad.dtype)}")
    grad, q, k, e = (row_major(x) for x in (grad, q, k, e))
    grads = torch.empty_like(e), torch.empty_like(e), torch.empty_like(e)
    _launch(modality_mix_bwd_kernel, e, heads, 2048, grad, q, k, e, *grads)
    return grads
