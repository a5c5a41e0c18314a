"""Tiles of the Gumbel rows of equation 5. The noise is counter-based, with the same bits as on the CPU."""

from __future__ import annotations

import triton
import triton.language as tl

from .seen import hide_seen


@triton.jit
def philox_tile(seed, offset, row, first, STREAM: tl.constexpr, WIDTH: tl.constexpr):
    """The random words of the columns [first, first + WIDTH) of the given rows, uint32 [rows, WIDTH]. `first` and WIDTH
    are multiples of 4.

    The word of a column is lane column % 4 of the counter (column / 4, row, offset, STREAM), as in
    reference.philox_bits.
    """
    zero = tl.zeros((row.shape[0], WIDTH // 4), tl.uint32)
    block = (tl.cast(first, tl.int64) // 4).to(tl.uint32) + tl.arange(0, WIDTH // 4).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(
        seed, zero + block[None, :], zero + row.to(tl.uint32)[:, None], zero + offset.to(tl.uint32), zero + STREAM
    )
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def gumbel_from_bits(bits):
    """g = -log E with E = -log1p(-v) and v = (bits + 1/2) 2^-32, clamped to 1 - 2^-24."""
    v = bits.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    v = tl.minimum(v, 0.9999999403953552)
    rest = 1.0 - v
    # log1p by Kahan's method: the factor v / (1 - rest) corrects the rounding error of rest = 1 - v.
    e = tl.where(rest == 1.0, v, -tl.log(rest) * (v / tl.where(rest == 1.0, 1.0, 1.0 - rest)))
    return -tl.log(e)


@triton.jit
def gumbel_rows_tile(
    seed, offset, row, high, low, scale, inv_tau, first, last, place, end, col_ptr, WIDTH: tl.constexpr
):
    """exp((A + scale g) / tau - lse) for the columns [first, first + WIDTH), with 0 from `last` on, and the position of
    each row's first seen item behind the tile.

    tau lse = high + tau low. Near the maximum of a row, where the entries are largest, the score minus high is exact.
    """
    STREAM_DENSE: tl.constexpr = 0
    g = gumbel_from_bits(philox_tile(seed, offset, row, first, STREAM_DENSE, WIDTH))
    interacted, place = hide_seen(tl.zeros((row.shape[0], WIDTH), tl.float32), 1.0, first, place, end, col_ptr)
    exponent = (interacted + scale * g - high[:, None]) * inv_tau - low[:, None]
    inside = first + tl.arange(0, WIDTH) < last
    return tl.exp(tl.where(inside[None, :], exponent, float("-inf"))), place
