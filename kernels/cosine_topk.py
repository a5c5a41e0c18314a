"""cosine_topk: the k largest entries of every row of u vᵀ, without seen items (equations 3 and 8, evaluation).

Roofline. 2 B I d operations, and every block of 64 rows reads 4 d bytes per item, from L2 if v fits. That is 32
operations per byte, so the matrix products are the limit. B = 1024, I = 100 000 and d = 64 need 13 GFLOP, which takes
an H100 at least 0.20 ms in IEEE float32, 0.08 ms as three TF32 products, and 0.03 ms in TF32. Selection adds one
maximum per entry. For each item that enters the list of a row, it adds about fifteen operations per entry of the tile
and the list; of n items in random order, k (1 + ln(n / k)) enter. The similarities are never written to memory.

A program keeps the lists of its rows in registers and iterates over tiles of items. The items are ascending, and an
item enters only if it is larger than the smallest entry of the list, so that the lower of two equal items stays. If
there are few rows, the catalogue is divided into parts, whose lists are merged. The bits of a similarity do not depend
on either division, because the block sizes depend on d, the precision and the architecture only.

Registers hold lists of up to 128 items. For longer lists, the similarities of a few rows at a time are written to
memory and sorted by torch.sort. The sort is stable, so that equal similarities are ordered by item, and it needs no
synchronisation. It takes about ten passes over the similarities at 4 to 12 bytes per entry, independent of k.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import arch_of, launch
from .precision import dot_precision
from .seen import first_seen, hide_seen
from .shapes import cdiv, check_factors, check_seen, power_of_2, product_blocks, require, row_major, split, wide
from .tiles import products, rows_of

MAX_LIST = 128  # items in the list of a row in registers
SORT_ELEMENTS = 1 << 23  # similarities that are sorted at once; about 250 MB with the workspace of torch.sort
MIN_TILES = 16  # tiles per part, because the first tiles of a part fill the lists, which takes longest
MERGE_ELEMENTS = 4096  # list entries that a program merges


@triton.jit
def cosine_topk_part_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    best_ptr,  # [B, parts, kept]
    item_ptr,  # int32 [B, parts, kept]
    rows,
    items,
    parts,
    tiles_a_part,
    kept,
    D: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
):
    """The `kept` best items of one part of the catalogue, in any order. If there are fewer, the rest has value -inf."""
    NONE: tl.constexpr = float("-inf")
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    part = tl.program_id(1).to(tl.int64)
    live = row < rows
    u = rows_of(u_ptr, row, live, 0, D, BLOCK_D)
    begin = part * tiles_a_part * BLOCK_I
    last = tl.minimum(begin + tiles_a_part * BLOCK_I, items)
    if crow_ptr is not None:
        place, end = first_seen(crow_ptr, col_ptr, row, live, begin)
    offset, slot = tl.arange(0, BLOCK_I), tl.arange(0, BLOCK_K)
    # Slots beyond `kept` have value inf, so they are never the smallest of a list. Empty slots have different items, so
    # that one of them is replaced at a time.
    best = tl.zeros((BLOCK_A, BLOCK_K), ACC) + tl.where(slot < kept, NONE, float("inf"))[None, :]
    item = tl.zeros((BLOCK_A, BLOCK_K), tl.int32) + slot[None, :]
    bar = tl.full((BLOCK_A,), NONE, ACC)
    for first in range(begin, last, BLOCK_I):
        candidate = first + offset.to(tl.int64)
        inside = candidate < last
        v = rows_of(v_ptr, candidate, inside, 0, D, BLOCK_D)
        s = products(u, u_ptr, row, live, v, v_ptr, candidate, inside, D, PRECISION, ACC)
        s = tl.where(inside[None, :] & (s == s), s, NONE)  # s == s is false for NaN
        if crow_ptr is not None:
            s, place = hide_seen(s, NONE, first, place, end, col_ptr)
        top = tl.max(s, 1)
        while tl.max((top > bar).to(tl.int32), 0) > 0:
            where = tl.min(tl.where(s == top[:, None], offset[None, :], BLOCK_I), 1)
            least = best == bar[:, None]
            latest = tl.max(tl.where(least, item, -1), 1)
            replaced = least & (item == latest[:, None]) & (top > bar)[:, None]
            best = tl.where(replaced, top[:, None], best)
            item = tl.where(replaced, (first + where).to(tl.int32)[:, None], item)
            bar = tl.min(best, 1)
            s = tl.where(offset[None, :] == where[:, None], NONE, s)
            top = tl.max(s, 1)
    to = (row * parts + part)[:, None] * kept + slot[None, :]
    stored = live[:, None] & (slot < kept)[None, :]
    tl.store(best_ptr + to, best, stored)
    tl.store(item_ptr + to, item, stored)


@triton.jit
def cosine_topk_scores_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None if there are no seen items
    col_ptr,  # [nnz]
    score_ptr,  # [B, I]
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
    """The similarities with one part of the catalogue. Seen items and NaN similarities get -inf."""
    NONE: tl.constexpr = float("-inf")
    row = tl.program_id(0).to(tl.int64) * BLOCK_A + tl.arange(0, BLOCK_A)
    live = row < rows
    u = rows_of(u_ptr, row, live, 0, D, BLOCK_D)
    begin = tl.program_id(1).to(tl.int64) * tiles_a_part * BLOCK_I
    last = tl.minimum(begin + tiles_a_part * BLOCK_I, items)
    if crow_ptr is not None:
        place, end = first_seen(crow_ptr, col_ptr, row, live, begin)
    offset = tl.arange(0, BLOCK_I)
    for first in range(begin, last, BLOCK_I):
        item = first + offset.to(tl.int64)
        inside = item < last
        v = rows_of(v_ptr, item, inside, 0, D, BLOCK_D)
        s = products(u, u_ptr, row, live, v, v_ptr, item, inside, D, PRECISION, ACC)
        s = tl.where(s == s, s, NONE)  # s == s is false for NaN
        s = tl.where(s == 0, 0.0, s)  # replaces -0, which a sort could place after +0
        if crow_ptr is not None:
            s, place = hide_seen(s, NONE, first, place, end, col_ptr)
        tl.store(score_ptr + row[:, None] * items + item[None, :], s, live[:, None] & inside[None, :])


@triton.jit
def cosine_topk_merge_kernel(
    part_best_ptr,  # [B, parts, kept]
    part_item_ptr,  # int32 [B, parts, kept]
    best_ptr,  # [B, stride]: row, group, kept
    item_ptr,  # [B, stride]
    parts,
    parts_a_group,
    kept,
    stride,
    BLOCK: tl.constexpr,
):
    """The `kept` best items of a group of parts, best first, equal values ordered by item. If there are fewer, the rest
    has item -1."""
    NONE: tl.constexpr = float("-inf")
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    begin = group * parts_a_group
    entries = tl.minimum(parts_a_group, parts - begin) * kept
    offset = tl.arange(0, BLOCK)
    entry = (row * parts + begin) * kept + offset
    best = tl.load(part_best_ptr + entry, offset < entries, NONE)
    item = tl.load(part_item_ptr + entry, offset < entries, -1)
    to = row * stride + group * kept
    for place in range(kept):
        top = tl.max(best, 0)
        equal = best == top
        first = tl.min(tl.where(equal, item, 2147483647), 0)
        tl.store(best_ptr + to + place, top.to(best_ptr.dtype.element_ty))
        tl.store(item_ptr + to + place, tl.where(top == NONE, -1, first).to(item_ptr.dtype.element_ty))
        best = tl.where(equal & (item == first), NONE, best)


def cosine_topk(u: Tensor, v: Tensor, k: int, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of ``torch.ops.mmssl_fast.cosine_topk``: values and items [B, k] from u [B, d] and
    v [I, d].

    The seen items of a row must be ascending and in [0, I). This is not checked, because it would need a
    synchronisation.
    """
    op = "cosine_topk"
    check_factors(op, u, v)
    check_seen(op, crow, col, u.shape[0])
    require(k >= 0, op, f"k must not be negative, got {k}")
    (rows, d), items = u.shape, v.shape[0]
    require(items < 2**31, op, f"there may be at most 2^31 - 1 items, got {items}")
    kept = min(k, items)
    values = u.new_full((rows, k), float("-inf")) if kept < k else u.new_empty(rows, k)
    top_items = u.new_full((rows, k), -1, dtype=torch.int64) if kept < k else u.new_empty(rows, k, dtype=torch.int64)
    if rows == 0 or kept == 0:
        return values, top_items
    u, v = row_major(u), row_major(v)
    precision, arch = dot_precision(u.dtype), arch_of(u.device)
    block_a, block_i, max_block_d = product_blocks(precision, d, arch)
    if kept > MAX_LIST:
        for begin in range(0, rows, max(1, SORT_ELEMENTS // items)):
            end = min(rows, begin + max(1, SORT_ELEMENTS // items))
            some_crow = None if crow is None else crow[begin : end + 1]
            scores = _scores(u[begin:end], v, some_crow, col, precision, arch)
            best, item = torch.sort(scores, dim=1, descending=True, stable=True)
            best, item = best[:, :kept], item[:, :kept]
            values[begin:end, :kept] = best
            top_items[begin:end, :kept] = torch.where(best == float("-inf"), -1, item)
        return values, top_items
    runs, parts = split(cdiv(items, block_i * MIN_TILES), cdiv(rows, block_a))
    block_k = power_of_2(kept)
    best, item = (u.new_empty(rows, parts, kept, dtype=dtype) for dtype in (wide(u.dtype), torch.int32))
    launch(
        cosine_topk_part_kernel,
        (cdiv(rows, block_a), parts),
        u,
        v,
        crow,
        col,
        best,
        item,
        rows,
        items,
        parts,
        runs * MIN_TILES,
        kept,
        warps=8 if block_k > 32 or arch < 90 else 4,
        D=d,
        BLOCK_A=block_a,
        BLOCK_I=block_i,
        BLOCK_D=min(power_of_2(d, 16), max_block_d),
        BLOCK_K=block_k,
        PRECISION=precision,
        ACC=tl.float64 if u.dtype == torch.float64 else tl.float32,
    )
    max_parts = MERGE_ELEMENTS // block_k
    while best.shape[1] > max_parts:
        groups = cdiv(best.shape[1], max_parts)
        merged = best.new_empty(rows, groups, kept), item.new_empty(rows, groups, kept)
        best, item = _merge(best, item, *merged, max_parts)
    return _merge(best, item, values, top_items, max_parts)


def _scores(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None, precision: str, arch: int) -> Tensor:
    """The similarities [B, I] in the accumulation dtype. Seen items and NaN similarities get -inf."""
    (rows, d), items = u.shape, v.shape[0]
    block_a, block_i, max_block_d = product_blocks(precision, d, arch)
    tiles_a_part, parts = split(cdiv(items, block_i), cdiv(rows, block_a))
    scores = u.new_empty(rows, items, dtype=wide(u.dtype))
    launch(
        cosine_topk_scores_kernel,
        (cdiv(rows, block_a), parts),
        u,
        v,
        crow,
        col,
        scores,
        rows,
        items,
        tiles_a_part,
        warps=8 if arch < 90 else 4,
        D=d,
        BLOCK_A=block_a,
        BLOCK_I=block_i,
        BLOCK_D=min(power_of_2(d, 16), max_block_d),
        PRECISION=precision,
        ACC=tl.float64 if u.dtype == torch.float64 else tl.float32,
    )
    return scores


def _merge(best: Tensor, item: Tensor, values: Tensor, top_items: Tensor, parts_a_group: int) -> tuple[Tensor, Tensor]:
    """Merges the lists [B, parts, kept] of each group of parts into `values` and `top_items`."""
    rows, parts, kept = best.shape
    block = power_of_2(min(parts, parts_a_group) * kept)
    launch(
        cosine_topk_merge_kernel,
        (rows, cdiv(parts, parts_a_group)),
        best,
        item,
        values,
        top_items,
        parts,
        parts_a_group,
        kept,
        values.stride(0),
        warps=min(max(block // 1024, 1), 4),
        BLOCK=block,
    )
    return values, top_items
