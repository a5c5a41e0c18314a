"""cosine_block and its gradient: u vᵀ with seen entries 0 and optionally normalised rows (equation 3).

Roofline per entry of the block on an H100, with d = 64 columns. Forward writes 4 bytes (1.2 ps) and does 2 d
operations: 0.8 ps as three TF32 products, 0.3 ps in TF32, 1.9 ps in IEEE float32. Normalization needs the length of a
row before its first entry is written. The products are therefore computed twice, which takes 0.8 ps, because reading
the block back would move 8 bytes (2.4 ps). Backward reads the gradient once for u and once for v. With row_l2, it also
reads the block for both, and both once more for their inner product. It moves 8 or 24 bytes (2.4 or 7.2 ps) and does 4
d operations (1.6 ps). Every further 64 columns read the gradient again. For B = 1024 and I = 100 000, that is 0.12 ms
forward, and 0.24 or 0.73 ms backward.

The file has over 400 lines, because forward and backward share the masking of seen entries and the block sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import arch_of, launch
from .precision import dot, dot_precision
from .seen import first_seen, hide_seen
from .shapes import cdiv, check_factors, check_seen, power_of_2, product_blocks, require, row_major, short, split, wide
from .tiles import products, rows_of


@triton.jit
def cosine_block_square_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    square_ptr,  # float64 [parts, B]
    rows,
    items,
    tiles_a_part,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The sum of the squares of each row's unseen entries over one part of the items."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    live = row < rows
    u = rows_of(u_ptr, row, live, 0, D, BLOCK_D)
    begin = part * tiles_a_part * BLOCK_I
    last = tl.minimum(begin + tiles_a_part * BLOCK_I, items)
    if crow_ptr is not None:
        place, end = first_seen(crow_ptr, col_ptr, row, live, begin)
    square = tl.zeros((BLOCK_A,), tl.float64)
    for first in range(begin, last, BLOCK_I):
        item = first + tl.arange(0, BLOCK_I).to(tl.int64)
        inside = item < last
        v = rows_of(v_ptr, item, inside, 0, D, BLOCK_D)
        s = products(u, u_ptr, row, live, v, v_ptr, item, inside, D, PRECISION, ACC)
        if crow_ptr is not None:
            s, place = hide_seen(s, 0.0, first, place, end, col_ptr)
        # In float32, the square of an entry of 1e-24 would underflow to 0.
        s64 = s.to(tl.float64)
        square += tl.sum(s64 * s64, 1)
    tl.store(square_ptr + part * rows + row, square, live)


@triton.jit
def cosine_block_fwd_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    inverse_ptr,  # [B], factors of the rows, or None
    block_ptr,  # [B, I]
    rows,
    items,
    row_tiles,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """Computes one tile of the block."""
    tile = tl.program_id(0)
    row = (tile % row_tiles).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    first = (tile // row_tiles).to(tl.int64) * BLOCK_I
    item = first + tl.arange(0, BLOCK_I)
    live, inside = row < rows, item < items
    u, v = rows_of(u_ptr, row, live, 0, D, BLOCK_D), rows_of(v_ptr, item, inside, 0, D, BLOCK_D)
    s = products(u, u_ptr, row, live, v, v_ptr, item, inside, D, PRECISION, ACC)
    if crow_ptr is not None:
        place, end = first_seen(crow_ptr, col_ptr, row, live, first)
        s, place = hide_seen(s, 0.0, first, place, end, col_ptr)
    if inverse_ptr is not None:
        s *= tl.load(inverse_ptr + row, live, 0.0)[:, None]
    to = block_ptr + row[:, None] * items + item[None, :]
    tl.store(to, s.to(block_ptr.dtype.element_ty), live[:, None] & inside[None, :])


@triton.jit
def cosine_block_inner_kernel(
    grad_ptr,
    block_ptr,  # [B, I] each
    inner_ptr,  # float64 [parts, B]
    rows,
    items,
    tiles_a_part,
    BLOCK: tl.constexpr,
):
    """The inner product of a row of grad and of block over one part of the items."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    begin = part * tiles_a_part * BLOCK
    last = tl.minimum(begin + tiles_a_part * BLOCK, items)
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(begin, last, BLOCK):
        item = first + tl.arange(0, BLOCK).to(tl.int64)
        grad = tl.load(grad_ptr + row * items + item, item < last, 0.0)
        total += grad.to(tl.float64) * tl.load(block_ptr + row * items + item, item < last, 0.0).to(tl.float64)
    tl.store(inner_ptr + part * rows + row, tl.sum(total, 0))


@triton.jit
def _product_grad(
    grad_ptr,
    block_ptr,
    inverse_ptr,
    inner_ptr,
    crow_ptr,
    col_ptr,
    row,
    live,
    first,
    last,
    items,
    place,
    end,
    BLOCK_I: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of the entries of a tile before normalisation, inverse (grad - inner block), with 0 at seen entries,
    and the position of each row's first seen item behind the tile."""
    item = first + tl.arange(0, BLOCK_I).to(tl.int64)
    offset = row[:, None] * items + item[None, :]
    inside = live[:, None] & (item < last)[None, :]
    g = tl.load(grad_ptr + offset, inside, 0.0).to(ACC)
    if inverse_ptr is not None:
        inner, inverse = tl.load(inner_ptr + row, live, 0.0), tl.load(inverse_ptr + row, live, 0.0)
        g = (g - inner[:, None] * tl.load(block_ptr + offset, inside, 0.0).to(ACC)) * inverse[:, None]
    if crow_ptr is not None:
        g, place = hide_seen(g, 0.0, first, place, end, col_ptr)
    return g, place


@triton.jit
def cosine_block_bwd_u_kernel(
    grad_ptr,  # [B, I]
    block_ptr,  # [B, I], or None without inverse
    inverse_ptr,  # [B], or None
    inner_ptr,  # [B], or None
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    v_ptr,  # [I, D]
    share_ptr,  # [parts, B, D]
    rows,
    items,
    tiles_a_part,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """share[part, b] = Σ_i g[b, i] v[i] over the items of a part, for one block of columns, with g of
    `_product_grad`."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    out = tl.program_id(2) * BLOCK_OUT
    live = row < rows
    begin = part * tiles_a_part * BLOCK_I
    last = tl.minimum(begin + tiles_a_part * BLOCK_I, items)
    place, end = row, row
    if crow_ptr is not None:
        place, end = first_seen(crow_ptr, col_ptr, row, live, begin)
    total = tl.zeros((BLOCK_A, BLOCK_OUT), ACC)
    for first in range(begin, last, BLOCK_I):
        item = first + tl.arange(0, BLOCK_I).to(tl.int64)
        v = rows_of(v_ptr, item, item < last, out, D, BLOCK_OUT)
        g, place = _product_grad(
            grad_ptr,
            block_ptr,
            inverse_ptr,
            inner_ptr,
            crow_ptr,
            col_ptr,
            row,
            live,
            first,
            last,
            items,
            place,
            end,
            BLOCK_I,
            ACC,
        )
        total = dot(g, v, total, PRECISION)
    column = out + tl.arange(0, BLOCK_OUT)
    to = share_ptr + (part * rows + row)[:, None] * D + column[None, :]
    tl.store(to, total, live[:, None] & (column < D)[None, :])


@triton.jit
def cosine_block_bwd_v_kernel(
    grad_ptr,  # [B, I]
    block_ptr,  # [B, I], or None without inverse
    inverse_ptr,  # [B], or None
    inner_ptr,  # [B], or None
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    u_ptr,  # [B, D]
    share_ptr,  # [parts, I, D]
    rows,
    items,
    tiles_a_part,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """share[part, i] = Σ_b g[b, i] u[b] over the rows of a part, for one block of columns, with g of
    `_product_grad`."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_I
    part = tl.program_id(1).to(tl.int64)
    out = tl.program_id(2) * BLOCK_OUT
    begin = part * tiles_a_part * BLOCK_A
    last = tl.minimum(begin + tiles_a_part * BLOCK_A, rows)
    total = tl.zeros((BLOCK_I, BLOCK_OUT), ACC)
    for first_row in range(begin, last, BLOCK_A):
        row = first_row + tl.arange(0, BLOCK_A).to(tl.int64)
        live = row < last
        u = rows_of(u_ptr, row, live, out, D, BLOCK_OUT)
        place, end = row, row
        if crow_ptr is not None:
            place, end = first_seen(crow_ptr, col_ptr, row, live, first)
        g, place = _product_grad(
            grad_ptr,
            block_ptr,
            inverse_ptr,
            inner_ptr,
            crow_ptr,
            col_ptr,
            row,
            live,
            first,
            items,
            items,
            place,
            end,
            BLOCK_I,
            ACC,
        )
        total = dot(tl.trans(g), u, total, PRECISION)
    item, column = first + tl.arange(0, BLOCK_I), out + tl.arange(0, BLOCK_OUT)
    to = share_ptr + (part * items + item)[:, None] * D + column[None, :]
    tl.store(to, total, (item < items)[:, None] & (column < D)[None, :])


class _Call:
    """The checked arguments of one call, and the settings that follow from them."""

    def __init__(self, op: str, u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None) -> None:
        check_factors(op, u, v)
        check_seen(op, crow, col, u.shape[0])
        self.u, self.v, self.seen = row_major(u), row_major(v), (crow, col)
        (self.rows, self.d), self.items = u.shape, v.shape[0]
        self.wide, double = wide(u.dtype), u.dtype == torch.float64
        self.precision, self.arch = dot_precision(u.dtype), arch_of(u.device)
        self.types = {"PRECISION": self.precision, "ACC": tl.float64 if double else tl.float32}


def cosine_block(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None, row_l2: bool) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of ``torch.ops.mmssl_fast.cosine_block``: block [B, I] and inverse lengths [B] (or [0])
    from u [B, d] and v [I, d].

    The seen items of a row must be ascending and in [0, I). This is not checked, because it would need a
    synchronisation.
    """
    call = _Call("cosine_block", u, v, crow, col)
    block, inverse = u.new_empty(call.rows, call.items), None
    block_a, block_i, max_block_d = product_blocks(call.precision, call.d, call.arch)
    row_tiles, item_tiles = cdiv(call.rows, block_a), cdiv(call.items, block_i)
    constants = {
        "D": call.d,
        "BLOCK_A": block_a,
        "BLOCK_I": block_i,
        "BLOCK_D": min(power_of_2(call.d, 16), max_block_d),
        "warps": 8 if call.arch < 90 and call.precision == "tf32x3" else 4,
        **call.types,
    }
    if row_l2:
        tiles_a_part, parts = split(item_tiles, row_tiles)
        square = u.new_empty(parts, call.rows, dtype=torch.float64)
        launch(
            cosine_block_square_kernel,
            (row_tiles, parts),
            call.u,
            call.v,
            *call.seen,
            square,
            call.rows,
            call.items,
            tiles_a_part,
            **constants,
        )
        square = square.sum(0)
        inverse = torch.where(square == 0, torch.inf, square).rsqrt().to(call.wide)
    launch(
        cosine_block_fwd_kernel,
        (row_tiles * item_tiles,),
        call.u,
        call.v,
        *call.seen,
        inverse,
        block,
        call.rows,
        call.items,
        row_tiles,
        **constants,
    )
    return block, u.new_empty(0, dtype=call.wide) if inverse is None else inverse


def cosine_block_bwd(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    crow: Tensor | None,
    col: Tensor | None,
    block: Tensor | None,
    inverse: Tensor | None,
    need_u: bool,
    need_v: bool,
) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of ``torch.ops.mmssl_fast.cosine_block_bwd``: the gradients of u and v. A gradient that
    is not needed is empty."""
    op = "cosine_block_bwd"
    call = _Call(op, u, v, crow, col)
    require((block is None) == (inverse is None), op, "pass both or neither of block and inverse")
    for name, x in (("grad", grad), ("block", block)):
        require(
            x is None or (x.shape == (call.rows, call.items) and x.dtype == u.dtype),
            op,
            f"{name} must be [{call.rows}, {call.items}] of {short(u.dtype)}, got "
            f"{None if x is None else [*x.shape]} of {None if x is None else short(x.dtype)}",
        )
    require(
        inverse is None or (inverse.shape == (call.rows,) and inverse.dtype == call.wide),
        op,
        f"inverse must be [{call.rows}] of {short(call.wide)}",
    )
    grad, inner = row_major(grad), None
    if block is not None:
        block = row_major(block)
        chunk = 1024
        tiles_a_part, parts = split(cdiv(call.items, chunk), call.rows)
        inner = u.new_empty(parts, call.rows, dtype=torch.float64)
        launch(
            cosine_block_inner_kernel,
            (call.rows, parts),
            grad,
            block,
            inner,
            call.rows,
            call.items,
            tiles_a_part,
            BLOCK=chunk,
        )
        inner = inner.sum(0).to(call.wide)
    data = grad, block, inverse, inner, *call.seen
    return (
        _factor_grad(cosine_block_bwd_u_kernel, call, data, call.v, call.u) if need_u else u.new_empty(0),
        _factor_grad(cosine_block_bwd_v_kernel, call, data, call.u, call.v) if need_v else v.new_empty(0),
    )


def _bwd_blocks(precision: str, arch: int) -> tuple[int, int]:
    """Rows and items of a tile of the gradient: the largest that compile without spilled registers (compile_gate)."""
    if precision == "tf32x3":  # except on sm_90, both halves of the operands are in registers, not in shared memory
        return (64, 32) if arch // 10 == 9 else (32, 32)
    return (32, 32) if precision == "ieee" else (64, 64)


def _factor_grad(kernel, call: _Call, data: tuple[Any, ...], other: Tensor, factor: Tensor) -> Tensor:
    """The gradient of `factor`, as a sum over parts of the rows of the other factor."""
    block_a, block_i = _bwd_blocks(call.precision, call.arch)
    size, other_size = (block_a, block_i) if kernel is cosine_block_bwd_u_kernel else (block_i, block_a)
    block_out = min(power_of_2(call.d, 16), 32 if call.precision == "ieee" else 64)
    tiles, outs = cdiv(factor.shape[0], size), cdiv(call.d, block_out)
    tiles_a_part, parts = split(cdiv(other.shape[0], other_size), tiles * outs)
    share = factor.new_empty(parts, *factor.shape, dtype=call.wide)
    launch(
        kernel,
        (tiles, parts, outs),
        *data,
        other,
        share,
        call.rows,
        call.items,
        tiles_a_part,
        warps=8 if call.arch < 90 else 4,
        D=call.d,
        BLOCK_A=block_a,
        BLOCK_I=block_i,
        BLOCK_OUT=block_out,
        **call.types,
    )
    return (share[0] if parts == 1 else share.sum(0)).to(factor.dtype)
