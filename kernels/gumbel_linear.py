"""gumbel_linear for dense rows and few columns: P Wᵀ and Pᵀ y, generating tiles of P in the kernel (equations 4 and 5).

Roofline per entry of P on an H100, estimated, not measured. The noise takes about 75 issue slots (2.6 ps), independent
of the number of columns: ten Philox rounds for four entries, two logarithms and an exponential. The product takes 2 H
operations: 0.8 ps as three TF32 products for H = 64 columns, and 1.6 ps for 128. The alternative is to write the tile
(4 bytes, 1.2 ps) and to read it back in a separate matrix product. A program can keep 128 columns in registers. Up to
this number, one pass saves 2.4 of 5.8 ps. With more columns, the noise would have to be generated again, which costs
more than reading the tile. For B = 1024, I = 100 000 and H = 64, the estimate is 0.35 ms.

P is never stored. The log-sum-exp of its rows comes from gumbel_lse. Backward generates the same tiles again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gumbel_noise import gumbel_rows_tile
from .launch import arch_of, launch
from .precision import dot, dot_precision
from .seen import first_seen
from .shapes import cdiv, power_of_2, require, row_major, short, split

MAX_COLUMNS = 128


@triton.jit
def _columns(ptr, item, inside, stride, column, column_stride, columns):
    """The rows `item` of a matrix with any strides, and 0 outside."""
    address = ptr + item[:, None] * stride + column[None, :] * column_stride
    return tl.load(address, inside[:, None] & (column < columns)[None, :], 0.0)


@triton.jit
def gumbel_linear_fwd_kernel(
    weight_ptr,  # [I, H] with strides
    crow_ptr,  # [U + 1]
    col_ptr,  # [nnz]
    users_ptr,  # [B]
    high_ptr,
    low_ptr,  # [B] each: tau lse = high + tau low
    seed_offset_ptr,  # int64 [2]
    share_ptr,  # [parts, B, H]
    rows,
    items,
    columns,
    tiles_a_part,
    stride,
    column_stride,
    scale,
    inv_tau,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """share[part, b] = Σ_i P[b, i] weight[i] over the items of a part."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    live = row < rows
    user = tl.load(users_ptr + row, live, 0)
    # Rows beyond the last get lse = inf, so that their entries are exp(-inf) = 0.
    high, low = tl.load(high_ptr + row, live, float("inf")), tl.load(low_ptr + row, live, 0.0)
    seed, offset = tl.load(seed_offset_ptr), tl.load(seed_offset_ptr + 1)
    begin = part * tiles_a_part * BLOCK_I
    last = tl.minimum(begin + tiles_a_part * BLOCK_I, items)
    place, end = first_seen(crow_ptr, col_ptr, user, live, begin)
    column = tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_A, BLOCK_H), tl.float32)
    for first in range(begin, last, BLOCK_I):
        item = first + tl.arange(0, BLOCK_I).to(tl.int64)
        weight = _columns(weight_ptr, item, item < last, stride, column, column_stride, columns)
        p, place = gumbel_rows_tile(
            seed, offset, user, high, low, scale, inv_tau, first, last, place, end, col_ptr, BLOCK_I
        )
        total = dot(p, weight, total, PRECISION)
    to = share_ptr + (part * rows + row)[:, None] * columns + column[None, :]
    tl.store(to, total, live[:, None] & (column < columns)[None, :])


@triton.jit
def gumbel_linear_bwd_kernel(
    grad_ptr,  # [B, H] with strides
    crow_ptr,  # [U + 1]
    col_ptr,  # [nnz]
    users_ptr,  # [B]
    high_ptr,
    low_ptr,  # [B] each: tau lse = high + tau low
    seed_offset_ptr,  # int64 [2]
    share_ptr,  # [parts, I, H]
    rows,
    items,
    columns,
    tiles_a_part,
    stride,
    column_stride,
    scale,
    inv_tau,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """share[part, i] = Σ_b P[b, i] grad[b] over the rows of a part."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_I
    part = tl.program_id(1).to(tl.int64)
    seed, offset = tl.load(seed_offset_ptr), tl.load(seed_offset_ptr + 1)
    begin = part * tiles_a_part * BLOCK_A
    last = tl.minimum(begin + tiles_a_part * BLOCK_A, rows)
    column = tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_I, BLOCK_H), tl.float32)
    for first_row in range(begin, last, BLOCK_A):
        row = first_row + tl.arange(0, BLOCK_A).to(tl.int64)
        live = row < last
        user = tl.load(users_ptr + row, live, 0)
        high, low = tl.load(high_ptr + row, live, float("inf")), tl.load(low_ptr + row, live, 0.0)
        place, end = first_seen(crow_ptr, col_ptr, user, live, first)
        grad = _columns(grad_ptr, row, live, stride, column, column_stride, columns)
        p, place = gumbel_rows_tile(
            seed, offset, user, high, low, scale, inv_tau, first, items, place, end, col_ptr, BLOCK_I
        )
        total = dot(tl.trans(p), grad, total, PRECISION)
    item = first + tl.arange(0, BLOCK_I)
    to = share_ptr + (part * items + item)[:, None] * columns + column[None, :]
    tl.store(to, total, (item < items)[:, None] & (column < columns)[None, :])


def gumbel_linear(
    weight: Tensor,
    crow: Tensor,
    col: Tensor,
    users: Tensor,
    lse: Tensor,
    tau: float,
    seed_offset: Tensor,
    noise_scale: float,
) -> Tensor:
    """P weightᵀ [B, H] for dense rows P, with weight [H, I], crow and col of the whole graph, and lse float64 [B]."""
    return _product(
        "gumbel_linear",
        gumbel_linear_fwd_kernel,
        weight.mT,
        weight.shape[1],
        True,
        crow,
        col,
        users,
        lse,
        tau,
        seed_offset,
        noise_scale,
    )


def gumbel_linear_bwd(
    grad: Tensor,
    crow: Tensor,
    col: Tensor,
    users: Tensor,
    lse: Tensor,
    n_items: int,
    tau: float,
    seed_offset: Tensor,
    noise_scale: float,
) -> Tensor:
    """Pᵀ grad [I, H] for dense rows P, with grad [B, H]."""
    return _product(
        "gumbel_linear_bwd",
        gumbel_linear_bwd_kernel,
        grad,
        n_items,
        False,
        crow,
        col,
        users,
        lse,
        tau,
        seed_offset,
        noise_scale,
    )


def _product(
    op: str,
    kernel,
    matrix: Tensor,
    items: int,
    forward: bool,
    crow: Tensor,
    col: Tensor,
    users: Tensor,
    lse: Tensor,
    tau: float,
    seed_offset: Tensor,
    noise_scale: float,
) -> Tensor:
    """Runs the forward or backward kernel, and adds its results for the parts."""
    columns, rows = matrix.shape[1], users.shape[0]
    require(
        columns <= MAX_COLUMNS and matrix.dtype in (torch.float32, torch.bfloat16),
        op,
        f"there may be at most {MAX_COLUMNS} columns of float32 or bfloat16, got {columns} of {short(matrix.dtype)}",
    )
    require(
        lse.shape == users.shape and lse.dtype == torch.float64,
        op,
        f"lse must be float64 [{rows}], got {short(lse.dtype)} {tuple(lse.shape)}",
    )
    # tau * lse as two float32 numbers, so that the kernel does not need float64 (see gumbel_rows_tile).
    users, scaled_lse = row_major(users), row_major(lse) * tau
    high = scaled_lse.float()
    low = ((scaled_lse - high) / tau).float()
    block_a, block_i = 64, 32
    row_tiles, item_tiles = cdiv(rows, block_a), cdiv(items, block_i)
    tiles, others = (row_tiles, item_tiles) if forward else (item_tiles, row_tiles)
    tiles_a_part, parts = split(others, tiles)
    share = matrix.new_empty(parts, rows if forward else items, columns, dtype=torch.float32)
    launch(
        kernel,
        (tiles, parts),
        matrix,
        crow,
        col,
        users,
        high,
        low,
        seed_offset,
        share,
        rows,
        items,
        columns,
        tiles_a_part,
        *matrix.stride(),
        noise_scale,
        1 / tau,
        warps=8 if columns > 64 or arch_of(matrix.device) < 90 else 4,
        BLOCK_A=block_a,
        BLOCK_I=block_i,
        BLOCK_H=power_of_2(columns, 16),
        PRECISION=dot_precision(matrix.dtype),
    )
    return (share[0] if parts == 1 else share.sum(0)).to(matrix.dtype)
