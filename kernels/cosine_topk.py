"""cosine_topk (equations 3 and 8, evaluation): the k best items of every row of u vᵀ, seen items left out.

Roofline at B rows, I items, d wide: 2 B I d operations against 4 d bytes an item read by every block of 64 rows, from
L2 when v fits it: 32 operations a byte, so the products bind. B = 1024, I = 100 000, d = 64: 13 GFLOP, on an H100 at
the least 0.20 ms in IEEE float32, 0.08 ms as three TF32 products, 0.03 ms in TF32. Selection adds one maximum an entry
and, for each item that enters a row's list, some fifteen operations an entry of the tile and the list; of n items in
random order k (1 + ln(n / k)) do. The similarities never reach memory.

A program keeps its rows' lists in registers while tiles of items go by. Items ascend, and an item enters only above the
least of the list, so of equal similarities the lower item stays. Few rows: the catalogue is cut into parts, whose lists
are merged. A similarity's bits depend on neither cut: block sizes follow from d, the precision and the architecture.

Registers hold lists of up to 128 items. For longer ones the similarities of a bounded block of rows are written to
memory and sorted whole by torch.sort, stable and so by item where they are equal, without a sync: some ten passes over
that block at 4 to 12 bytes an entry, bound by memory. It is the simple way, and its cost does not depend on k.
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

MOST = 128  # items a row's list in registers holds
SORTED = 1 << 23  # similarities in memory at once where lists are longer; about 250 MB with what torch.sort needs
LEAST_TILES = 16  # of a part: its first tiles fill the lists, which takes longest
MERGED = 4096  # list entries a program merges


@triton.jit
def cosine_topk_part_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None: nothing is seen
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
    """The `kept` best items of one part of the catalogue, in no order; value -inf where there are fewer."""
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
    # Slots beyond `kept` are never the least of a list. Empty ones differ in item: one is replaced at a time.
    best = tl.zeros((BLOCK_A, BLOCK_K), ACC) + tl.where(slot < kept, NONE, float("inf"))[None, :]
    item = tl.zeros((BLOCK_A, BLOCK_K), tl.int32) + slot[None, :]
    bar = tl.full((BLOCK_A,), NONE, ACC)
    for first in range(begin, last, BLOCK_I):
        at = first + offset.to(tl.int64)
        inside = at < last
        v = rows_of(v_ptr, at, inside, 0, D, BLOCK_D)
        s = products(u, u_ptr, row, live, v, v_ptr, at, inside, D, PRECISION, ACC)
        s = tl.where(inside[None, :] & (s == s), s, NONE)
        if crow_ptr is not None:
            s, place = hide_seen(s, NONE, first, place, end, col_ptr)
        top = tl.max(s, 1)
        while tl.max((top > bar).to(tl.int32), 0) > 0:
            where = tl.min(tl.where(s == top[:, None], offset[None, :], BLOCK_I), 1)
            least = best == bar[:, None]
            latest = tl.max(tl.where(least, item, -1), 1)
            goes = least & (item == latest[:, None]) & (top > bar)[:, None]
            best = tl.where(goes, top[:, None], best)
            item = tl.where(goes, (first + where).to(tl.int32)[:, None], item)
            bar = tl.min(best, 1)
            s = tl.where(offset[None, :] == where[:, None], NONE, s)
            top = tl.max(s, 1)
    to = (row * parts + part)[:, None] * kept + slot[None, :]
    kept_here = live[:, None] & (slot < kept)[None, :]
    tl.store(best_ptr + to, best, kept_here)
    tl.store(item_ptr + to, item, kept_here)


@triton.jit
def cosine_topk_scores_kernel(
    u_ptr,  # [B, D]
    v_ptr,  # [I, D]
    crow_ptr,  # [B + 1], or None: nothing is seen
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
    """One part of the catalogue's similarities; -inf where the item is seen or the similarity NaN."""
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
        at = first + offset.to(tl.int64)
        inside = at < last
        v = rows_of(v_ptr, at, inside, 0, D, BLOCK_D)
        s = products(u, u_ptr, row, live, v, v_ptr, at, inside, D, PRECISION, ACC)
        s = tl.where(s == s, s, NONE)
        s = tl.where(s == 0, 0.0, s)  # a sort may order -0 and +0
        if crow_ptr is not None:
            s, place = hide_seen(s, NONE, first, place, end, col_ptr)
        tl.store(score_ptr + row[:, None] * items + at[None, :], s, live[:, None] & inside[None, :])


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
    """The `kept` best of a group of parts, best first, equal ones by item; item -1 where there are fewer."""
    NONE: tl.constexpr = float("-inf")
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    begin = group * parts_a_group
    entries = tl.minimum(parts_a_group, parts - begin) * kept
    offset = tl.arange(0, BLOCK)
    at = (row * parts + begin) * kept + offset
    best = tl.load(part_best_ptr + at, offset < entries, NONE)
    item = tl.load(part_item_ptr + at, offset < entries, -1)
    to = row * stride + group * kept
    for place in range(kept):
        top = tl.max(best, 0)
        level = best == top
        first = tl.min(tl.where(level, item, 2147483647), 0)
        tl.store(best_ptr + to + place, top.to(best_ptr.dtype.element_ty))
        tl.store(item_ptr + to + place, tl.where(top == NONE, -1, first).to(item_ptr.dtype.element_ty))
        best = tl.where(level & (item == first), NONE, best)


def cosine_topk(u: Tensor, v: Tensor, k: int, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor]:
    """The CUDA kernels of ``torch.ops.mmssl_fast.cosine_topk``: u [B, d], v [I, d] → values and items [B, k].

    A seen row's items must ascend. Neither that nor their range is checked, which would take a sync.
    """
    op = "cosine_topk"
    check_factors(op, u, v)
    check_seen(op, crow, col, u.shape[0])
    require(k >= 0, op, f"k must not be negative, got {k}")
    (rows, d), items = u.shape, v.shape[0]
    require(items < 2**31, op, f"at most 2^31 - 1 items, got {items}")
    kept = min(k, items)
    values = u.new_full((rows, k), float("-inf")) if kept < k else u.new_empty(rows, k)
    found = u.new_full((rows, k), -1, dtype=torch.int64) if kept < k else u.new_empty(rows, k, dtype=torch.int64)
    if rows == 0 or kept == 0:
        return values, found
    u, v = row_major(u), row_major(v)
    precision, arch = dot_precision(u.dtype), arch_of(u.device)
    block_a, block_i, most = product_blocks(precision, d, arch)
    if kept > MOST:
        for begin in range(0, rows, max(1, SORTED // items)):
            end = min(rows, begin + max(1, SORTED // items))
            some_crow = None if crow is None else crow[begin : end + 1]
            scores = _scores(u[begin:end], v, some_crow, col, precision, arch)
            best, item = torch.sort(scores, dim=1, descending=True, stable=True)
            best, item = best[:, :kept], item[:, :kept]
            values[begin:end, :kept] = best
            found[begin:end, :kept] = torch.where(best == float("-inf"), -1, item)
        return values, found
    runs, parts = split(cdiv(items, block_i * LEAST_TILES), cdiv(rows, block_a))
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
        runs * LEAST_TILES,
        kept,
        warps=8 if block_k > 32 or arch < 90 else 4,
        D=d,
        BLOCK_A=block_a,
        BLOCK_I=block_i,
        BLOCK_D=min(power_of_2(d, 16), most),
        BLOCK_K=block_k,
        PRECISION=precision,
        ACC=tl.float64 if u.dtype == torch.float64 else tl.float32,
    )
    most_parts = MERGED // block_k
    while best.shape[1] > most_parts:
        groups = cdiv(best.shape[1], most_parts)
        fewer = best.new_empty(rows, groups, kept), item.new_empty(rows, groups, kept)
        best, item = _merge(best, item, *fewer, most_parts)
    return _merge(best, item, values, found, most_parts)


def _scores(u: Tensor, v: Tensor, crow: Tensor | None, col: Tensor | None, precision: str, arch: int) -> Tensor:
    """Similarities [B, I] in the dtype they are summed in; -inf where an item is seen or its similarity NaN."""
    (rows, d), items = u.shape, v.shape[0]
    block_a, block_i, most = product_blocks(precision, d, arch)
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
        BLOCK_D=min(power_of_2(d, 16), most),
        PRECISION=precision,
        ACC=tl.float64 if u.dtype == torch.float64 else tl.float32,
    )
    return scores


def _merge(best: Tensor, item: Tensor, values: Tensor, found: Tensor, parts_a_group: int) -> tuple[Tensor, Tensor]:
    """Merges lists [B, parts, kept] in groups of parts; values and found have room for all groups of a row."""
    rows, parts, kept = best.shape
    block = power_of_2(min(parts, parts_a_group) * kept)
    launch(
        cosine_topk_merge_kernel,
        (rows, cdiv(parts, parts_a_group)),
        best,
        item,
        values,
        found,
        parts,
        parts_a_group,
        kept,
        values.stride(0),
        warps=min(max(block // 1024, 1), 4),
        BLOCK=block,
    )
    return values, found
