"""When a sparse product pays: counted from sizes, before anything is done.

Times are in nanoseconds of one core, fitted to torch and this library measured side by side with ``pytest
benchmarks/bench_dropin.py --benchmark-only -k rule``; only their ratios matter. Between measurements that differ,
torch's is the lower one and this library's the higher one, so that what is taken is faster. Decisions depend on sizes
and on earlier uses, never on a clock: a run can be repeated bit for bit.

With n entries, N rows and columns together, and d columns of the dense factor in float32 (twice as many in float64),
and in brackets the numbers for a dense factor beyond 2 MiB, which a core's cache does not hold:

    torch, forward       COO  20e3 + n (33 + 0.45 [1.2] d)     CSR  35e3 + n (5 + 0.42 [1.0] d)
                         CSC  40e3 + n (90 + 0.7 [0.9] d)
    torch, backward      COO  125e3 + n (40 + 0.6 [1.2] d)     CSR  180e3 + n (95 + 1.0 [1.5] d)
                         CSC  100e3 + n (5 + 0.42 [1.0] d)
    here, forward        170e3 + n (22 + 0.35 [0.55] d), with the comparison of the matrix's contents
    here, backward       210e3 + n (6 + 0.35 [0.55] d)
    dense @ sparse       1 more, in either direction, for each element of the dense factor and of the result: both are
                         transposed
    preparing            300e3 + 50 n + 10 N
    new values only      130e3 + 9 n

A matrix is prepared when the gain of the products expected of it exceeds the cost of preparing. Expected are as many as
the last matrices of its layout, dtype, shape and device were used for before they died or changed; any number as long
as none has. A matrix that outlives this expectation is prepared as soon as the products left to torch would have paid
for it; when it then changes, twice as many are waited for the next time.
"""

from __future__ import annotations

import torch

_COO, _CSR, _CSC = torch.sparse_coo, torch.sparse_csr, torch.sparse_csc
_CACHE = 2**21  # bytes

_Line = tuple[float, float, float, float]  # fixed, per entry, per entry and column, the same beyond the cache

_TORCH_FORWARD: dict[torch.layout, _Line] = {
    _COO: (20e3, 33, 0.45, 1.2),
    _CSR: (35e3, 5, 0.42, 1.0),
    _CSC: (40e3, 90, 0.7, 0.9),
}
_TORCH_BACKWARD: dict[torch.layout, _Line] = {
    _COO: (125e3, 40, 0.6, 1.2),
    _CSR: (180e3, 95, 1.0, 1.5),
    _CSC: (100e3, 5, 0.42, 1.0),
}
_FORWARD: _Line = (170e3, 22, 0.35, 0.55)
_BACKWARD: _Line = (210e3, 6, 0.35, 0.55)


def gain(
    layout: torch.layout,
    entries: int,
    shape: torch.Size,
    width: int,
    *,
    itemsize: int = 4,
    backward: bool = False,
    from_right: bool = False,
) -> float:
    """Nanoseconds by which a product of a prepared matrix, and its backward if there is one, is faster than torch's.

    width: columns of the dense factor, or its rows where it stands before the sparse one (from_right).
    """
    columns = width * itemsize / 4
    is_large = shape[1] * width * itemsize > _CACHE
    saved = _time(_TORCH_FORWARD[layout], entries, columns, is_large) - _time(_FORWARD, entries, columns, is_large)
    if backward:
        saved += _time(_TORCH_BACKWARD[layout], entries, columns, is_large)
        saved -= _time(_BACKWARD, entries, columns, is_large)
    return saved - (1 + backward) * sum(shape) * width if from_right else saved


def prepare_cost(entries: int, shape: torch.Size, is_pattern_known: bool) -> float:
    """Nanoseconds that preparing a matrix takes."""
    return 130e3 + 9 * entries if is_pattern_known else 300e3 + 50 * entries + 10 * sum(shape)


def _time(line: _Line, entries: int, columns: float, is_large: bool) -> float:
    fixed, per_entry, small, large = line
    return fixed + entries * (per_entry + (large if is_large else small) * columns)
