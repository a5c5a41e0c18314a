"""Loading tiles of row-major matrices, and their products."""

from __future__ import annotations

import triton
import triton.language as tl

from .precision import dot


@triton.jit
def rows_of(ptr, row, live, first, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """The columns [first, first + BLOCK_D) of the given rows, and 0 outside the matrix."""
    column = first + tl.arange(0, BLOCK_D)
    return tl.load(ptr + row[:, None] * D + column[None, :], live[:, None] & (column < D)[None, :], 0.0)


@triton.jit
def products(
    a, a_ptr, row_a, live_a, b, b_ptr, row_b, live_b, D: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr
):
    """a bᵀ [rows of a, rows of b] over all D columns. a and b contain the first columns, and the others are loaded."""
    s = tl.zeros((a.shape[0], b.shape[0]), ACC)
    s = dot(a, tl.trans(b), s, PRECISION)
    for first in range(a.shape[1], D, a.shape[1]):
        more_a = rows_of(a_ptr, row_a, live_a, first, D, a.shape[1])
        more_b = rows_of(b_ptr, row_b, live_b, first, D, a.shape[1])
        s = dot(more_a, tl.trans(more_b), s, PRECISION)
    return s
