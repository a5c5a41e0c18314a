"""cosine_block (equation 3) and its gradient: u vᵀ with seen entries 0, its rows optionally of length 1.

Roofline at B rows, I items, d wide, an entry at a time. Forward writes 4 bytes for 2 d operations: at d = 64 an H100
takes 1.2 ps to write, 0.8 ps for three TF32 products, 0.3 ps in TF32, 1.9 ps in IEEE float32. A row's length needs the
whole row before its first entry is written: the products are made twice rather than the block read back (2 d
operations against 8 bytes, 0.8 against 2.4 ps). Backward reads the gradient once for u and once for v (with row_l2 the
block too, and both once more for their product): 8 or 24 bytes for 4 d operations, 2.4 or 7.2 ps against 1.6; more than
64 columns are a further reading each 64. B = 1024, I = 100 000: 0.12 ms forward, 0.24 or 0.73 ms backward.

Over 400 lines in one file, because forward and backward share how the seen entries of a tile are hidden.
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
    crow_ptr,  # [B + 1], or None: nothing is seen
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
    """Σ of the squares of each row's unseen products with one part of the items."""
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
        # Products of 1e-24 have squares that no float32 holds.
        s64 = s.to(tl.float64)
        square += tl.sum(s64 * s64, 1)
    tl.store(square_ptr + part * rows + row, square, live)


@triton.jit
def cosine_block_fwd_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None: nothing is seen
    col_ptr,  # [nnz]
    inverse_ptr,  # [B]: what rows are multiplied by, or None
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
    """One tile of the block."""
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
def cosine_block_along_kernel(
    grad_ptr,
    block_ptr,  # [B, I] each
    along_ptr,  # float64 [parts, B]
    rows,
    items,
    tiles_a_part,
    BLOCK: tl.constexpr,
):
    """<grad, block> of one row over one part of the items."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    begin = part * tiles_a_part * BLOCK
    last = tl.minimum(begin + tiles_a_part * BLOCK, items)
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(begin, last, BLOCK):
        item = first + tl.arange(0, BLOCK).to(tl.int64)
        grad = tl.load(grad_ptr + row * items + item, item < last, 0.0)
        total += grad.to(tl.float64) * tl.load(block_ptr + row * items + item, item < last, 0.0).to(tl.float64)
    tl.store(along_ptr + part * rows + row, tl.sum(total, 0))


@triton.jit
def _product_grad(
    grad_ptr,
    block_ptr,
    inverse_ptr,
    along_ptr,
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
    """The gradient of a tile's products, inverse (grad - along block), 0 where seen; each row's place behind it."""
    item = first + tl.arange(0, BLOCK_I).to(tl.int64)
    offset = row[:, None] * items + item[None, :]
    inside = live[:, None] & (item < last)[None, :]
    g = tl.load(grad_ptr + offset, inside, 0.0).to(ACC)
    if inverse_ptr is not None:
        along, inverse = tl.load(along_ptr + row, live, 0.0), tl.load(inverse_ptr + row, live, 0.0)
        g = (g - along[:, None] * tl.load(block_ptr + offset, inside, 0.0).to(ACC)) * inverse[:, None]
    if crow_ptr is not None:
        g, place = hide_seen(g, 0.0, first, place, end, col_ptr)
    return g, place


@triton.jit
def cosine_block_bwd_u_kernel(
    grad_ptr,  # [B, I]
    block_ptr,  # [B, I], or None without inverse
    inverse_ptr,  # [B], or None
    along_ptr,  # [B], or None
    crow_ptr,  # [B + 1], or None: nothing is seen
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
    """share[part, b] = Σ over the part's items of the product's gradient times v; one block of columns."""
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
            along_ptr,
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
    along_ptr,  # [B], or None
    crow_ptr,  # [B + 1], or None: nothing is seen
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
    """share[part, i] = Σ over the part's rows of the product's gradient times u; one block of columns."""
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
            along_ptr,
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
    """The checked factors of one call, and the block sizes that follow from their shapes."""

    def __init__(self, op: str, u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None) -> None:
        check_factors(op, u, v)
        check_seen(op, crow, col, u.shape[0])
        self.u, self.v, self.seen = row_major(u), row_major(v), (crow, col)
        (self.rows, self.d), self.items = u.shape, v.shape[0]
        self.wide, double = wide(u.dtype), u.dtype == torch.float64
        self.precision, self.arch = dot_precision(u.dtype), arch_of(u.device)
        self.types = {"PRECISION": self.precision, "ACC": tl.float64 if double else tl.float32}


def cosine_block(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None, row_l2: bool) -> tuple[Tensor, Tensor]:
    """The CUDA kernels of ``torch.ops.mmssl_fast.cosine_block``: u [B, d], v [I, d] → block [B, I], inverse [B] or [0].

    A seen row's items must ascend. Neither that nor their range is checked, which would take a sync.
    """
    call = _Call("cosine_block", u, v, crow, col)
    block, inverse = u.new_empty(call.rows, call.items), None
    block_a, block_i, most = product_blocks(call.precision, call.d, call.arch)
    row_tiles, item_tiles = cdiv(call.rows, block_a), cdiv(call.items, block_i)
    constants = {
        "D": call.d,
        "BLOCK_A": block_a,
        "BLOCK_I": block_i,
        "BLOCK_D": min(power_of_2(call.d, 16), most),
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
    """The CUDA kernels of ``torch.ops.mmssl_fast.cosine_block_bwd``: gradients of u and v, [0] where not needed."""
    op = "cosine_block_bwd"
    call = _Call(op, u, v, crow, col)
    require((block is None) == (inverse is None), op, "block and inverse go together")
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
    grad, along = row_major(grad), None
    if block is not None:
        block = row_major(block)
        chunk = 1024
        tiles_a_part, parts = split(cdiv(call.items, chunk), call.rows)
        along = u.new_empty(parts, call.rows, dtype=torch.float64)
        launch(
            cosine_block_along_kernel,
            (call.rows, parts),
            grad,
            block,
            along,
            call.rows,
            call.items,
            tiles_a_part,
            BLOCK=chunk,
        )
        along = along.sum(0).to(call.wide)
    data = grad, block, inverse, along, *call.seen
    return (
        _factor_grad(cosine_block_bwd_u_kernel, call, data, call.v, call.u) if need_u else u.new_empty(0),
        _factor_grad(cosine_block_bwd_v_kernel, call, data, call.u, call.v) if need_v else v.new_empty(0),
    )


def _bwd_blocks(precision: str, arch: int) -> tuple[int, int]:
    """Rows and items of a tile of the gradient: the most that compile without a spill (compile_gate)."""
    if precision == "tf32x3":  # outside sm_90 the operands' halves are in registers, not in shared memory
        return (64, 32) if arch // 10 == 9 else (32, 32)
    return (32, 32) if precision == "ieee" else (64, 64)


def _factor_grad(kernel, call: _Call, data: tuple[Any, ...], other: Tensor, factor: Tensor) -> Tensor:
    """The gradient of one factor as a sum over parts of the other's rows."""
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
