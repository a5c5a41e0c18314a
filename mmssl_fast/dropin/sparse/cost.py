"""Estimates from sizes whether a sparse product is faster here than in torch.

Times are in nanoseconds of one core, fitted to torch and this library measured side by side with ``pytest
benchmarks/bench_dropin.py --benchmark-only -k rule``; only their ratios matter. If measurements differ, the lower one
is used for torch and the higher one for this library, so that accelerated products are faster. Decisions depend on
sizes and on earlier uses, never on a clock, so that a run can be repeated bit for bit.

With n entries, N rows and columns together, and d columns of the dense factor in float32 (twice as many in float64),
and in brackets the numbers for a dense factor beyond 2 MiB, which a core's cache does not hold::

    torch, forward       COO   2e3 + n (28 + 0.06 [0.17] d)     CSR    5e3 + n (0.9 + 0.11 [0.2] d)
                         CSC  30e3 + n (25 + 0.115 [0.28] d)
    torch, backward      COO  35e3 + n (32 + 0.09 [0.6] d)      CSR  100e3 + n (27 + 0.15 [0.3] d)
                         CSC  65e3 + n (2.5 + 0.13 [0.3] d)
    here, forward         60e3 + n (2.5 + 0.057 [0.12] d), with the comparison of the matrix's contents
    here, backward        80e3 + n (2.5 + 0.07 [0.26] d)
    dense @ sparse       1 more, in either direction, for each element of the dense factor and of the result: both are
                         transposed
    preparing            75e3 + 16 n + 3 N
    new values only      60e3 + 6 n

What is fixed here is Python. In a loop of nothing but products it is 33e3 forward, 46e3 with a gradient to come, and
58e3 backward; the numbers above are from training steps of LightGCN, where other code runs in between.

A product of two matrices on the CPU with the sparse one on the left, written with two positional arguments, takes this
way only at the first use of the matrix. Later ones are computed in C++ ("short"), and even for 20 entries take less
time than torch's, also if other code has emptied the caches in between. Fixed are then 1e3 forward (5e3 for CSR) and
10e3 backward, less than measured, because torch's fixed times above are those of full caches; and 200e3 are added to
what preparing takes.

A matrix is prepared when the gain of the products expected of it exceeds the cost of preparing by a quarter. (Where the
two were equal, nothing was gained: two products of 9000 entries each of matrices that were new in each step.) Expected
are as many as the last matrices of its layout, dtype, shape and device were used for before they died or changed; any
number as long as none has. A matrix that outlives this expectation is prepared as soon as the products left to torch
would have paid for it; when it then changes, twice as many are waited for the next time.
"""

from __future__ import annotations

from functools import lru_cache

import torch

_COO, _CSR, _CSC = torch.sparse_coo, torch.sparse_csr, torch.sparse_csc
_CACHE = 2**21  # bytes
_MARGIN = 1.25  # of the cost of preparing

_Line = tuple[float, float, float, float]  # fixed, per entry, per entry and column, the same beyond the cache

_TORCH_FORWARD: dict[torch.layout, _Line] = {
    _COO: (2e3, 28, 0.06, 0.17),
    _CSR: (5e3, 0.9, 0.11, 0.2),
    _CSC: (30e3, 25, 0.115, 0.28),
}
_TORCH_BACKWARD: dict[torch.layout, _Line] = {
    _COO: (35e3, 32, 0.09, 0.6),
    _CSR: (100e3, 27, 0.15, 0.3),
    _CSC: (65e3, 2.5, 0.13, 0.3),
}
_FORWARD: _Line = (60e3, 2.5, 0.057, 0.12)
_BACKWARD: _Line = (80e3, 2.5, 0.07, 0.26)
_SHORT_FORWARD: dict[torch.layout, _Line] = {
    _COO: (1e3, *_FORWARD[1:]),
    _CSR: (5e3, *_FORWARD[1:]),  # so that no product is taken where torch is the faster one per entry
    _CSC: (1e3, *_FORWARD[1:]),
}
_SHORT_BACKWARD: _Line = (10e3, *_BACKWARD[1:])
_FIRST = 200e3  # what the first product of a matrix takes in Python, beyond a later one


@lru_cache(256)
def gain(
    layout: torch.layout,
    entries: int,
    shape: torch.Size,
    width: int,
    itemsize: int = 4,
    backward: bool = False,
    from_right: bool = False,
    short: bool = False,
) -> float:
    """Nanoseconds by which a product of a prepared matrix, and its backward if there is one, is faster than torch's.

    width: columns of the dense factor, or its rows where it stands before the sparse one (from_right). short: whether
    products after the first need no Python.
    """
    columns = width * itemsize / 4
    is_large = shape[1] * width * itemsize > _CACHE
    ours = _SHORT_FORWARD[layout] if short else _FORWARD
    saved = _time(_TORCH_FORWARD[layout], entries, columns, is_large) - _time(ours, entries, columns, is_large)
    if backward:
        ours = _SHORT_BACKWARD if short else _BACKWARD
        saved += _time(_TORCH_BACKWARD[layout], entries, columns, is_large) - _time(ours, entries, columns, is_large)
    return saved - (1 + backward) * sum(shape) * width if from_right else saved


def most_left(
    layout: torch.layout, shape: torch.Size, width: int, itemsize: int = 4, backward: bool = False, short: bool = False
) -> int:
    """The largest number of entries for which `gain`, a straight line, is not positive; -1 if it always is positive.

    Example:
        >>> most = most_left(torch.sparse_coo, torch.Size([300, 300]), 64)
        >>> [gain(torch.sparse_coo, n, torch.Size([300, 300]), 64) > 0 for n in (most, most + 1)]
        [False, True]
    """
    lowest, many = gain(layout, 0, shape, width, itemsize, backward, short=short), 2**30
    if lowest > 0:
        return -1
    slope = (gain(layout, many, shape, width, itemsize, backward, short=short) - lowest) / many
    return min(int(-lowest / slope), many) if slope > 0 else many


def prepare_cost(entries: int, shape: torch.Size, is_pattern_known: bool, short: bool = False) -> float:
    """Nanoseconds that products of a matrix have to gain for preparing it to pay: what it takes, and a margin.

    Example:
        >>> prepare_cost(10_000, torch.Size([300, 300]), False) > prepare_cost(10_000, torch.Size([300, 300]), True)
        True
    """
    preparing = 60e3 + 6 * entries if is_pattern_known else 75e3 + 16 * entries + 3 * sum(shape)
    return _MARGIN * (preparing + _FIRST if short else preparing)


def _time(line: _Line, entries: int, columns: float, is_large: bool) -> float:
    fixed, per_entry, small, large = line
    return fixed + entries * (per_entry + (large if is_large else small) * columns)
