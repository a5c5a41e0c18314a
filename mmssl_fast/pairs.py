"""Reading interactions from SciPy matrices and sequences of pairs, for InteractionGraph.

All checks of the pairs are here: lengths, ids and values. `where` is the function that errors name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

_INT32_MAX = 2**31 - 1


def pairs_of(where: str, matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (row, column, value) triples of a SciPy matrix."""
    if not sp.issparse(matrix) or matrix.ndim != 2:
        raise ValueError(f"{where}: expected a 2-D SciPy sparse matrix, got {type(matrix).__name__}")
    if matrix.format == "csr":
        return _csr_to_pairs(matrix, where)
    coo = matrix.tocoo()
    return coo.row, coo.col, np.asarray(coo.data)


def _csr_to_pairs(matrix: sp.spmatrix | sp.sparray, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (row, column, value) triples of a CSR matrix. The offsets are checked first, because SciPy's conversions
    would read out of bounds if they are inconsistent."""
    indptr, indices, data = np.asarray(matrix.indptr), np.asarray(matrix.indices), np.asarray(matrix.data)
    n_rows = matrix.shape[0]
    if (
        len(indptr) != n_rows + 1
        or indptr[0] != 0
        or (np.diff(indptr) < 0).any()
        or indptr[-1] > min(len(indices), len(data))
    ):
        raise ValueError(
            f"{where}: indptr is invalid; {n_rows} rows need {n_rows + 1} non-decreasing offsets from 0 to at most "
            f"{len(indices)}, got {len(indptr)} offsets"
        )
    nnz = int(indptr[-1])
    return np.repeat(np.arange(n_rows), np.diff(indptr)), indices[:nnz], data[:nnz]


def csr_of(
    users: np.ndarray, items: np.ndarray, data: np.ndarray | None, n_users: int, n_items: int, weights: bool, where: str
) -> sp.csr_array:
    """The CSR array of the pairs, with distinct, sorted indices. Without weights, all values are 1."""
    if n_users < 0 or n_items < 0:
        raise ValueError(f"{where}: sizes must not be negative, got {n_users} users x {n_items} items")
    if len(users) != len(items) or (data is not None and len(data) != len(users)):
        raise ValueError(
            f"{where}: users, items and values must have the same length, got {len(users)}, {len(items)} and "
            f"{len(users) if data is None else len(data)}"
        )
    for name, ids, size in (("user", users, n_users), ("item", items, n_items)):
        bad = np.flatnonzero((ids < 0) | (ids >= size))
        if bad.size:
            raise ValueError(f"{where}: pair {bad[0]} has {name} {ids[bad[0]]}, but the graph has {size} {name}s")
    if data is not None:
        if data.ndim != 1:
            raise ValueError(f"{where}: values must be a 1-D sequence, got shape {data.shape}")
        users, items, data = _edges(users, items, data, weights, where)
    values = data.astype(np.float32) if weights and data is not None else np.ones(len(users), np.float32)
    index = np.int32 if max(n_users, n_items) <= _INT32_MAX else np.int64
    csr = sp.coo_array((values, (users.astype(index), items.astype(index))), shape=(n_users, n_items)).tocsr()
    csr.sum_duplicates()
    if weights:
        csr.eliminate_zeros()
    else:
        csr.data[:] = 1
    csr.indices = csr.indices.astype(index, copy=False)
    return csr


def _edges(
    users: np.ndarray, items: np.ndarray, data: np.ndarray, weights: bool, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs with a nonzero value, and these values."""
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{where}: values must be real numbers, got {data.dtype}")

    def refuse(bad: np.ndarray, rule: str) -> None:
        if bad.any():
            first = int(bad.argmax())
            pair = f"user {users[first]}, item {items[first]}"
            raise ValueError(f"{where}: value {first} ({pair}) is {data[first]:g}; {rule}")

    refuse(~np.isfinite(data), "values must be finite")
    if weights:
        with np.errstate(over="ignore"):
            refuse(~np.isfinite(data.astype(np.float32)), "values must fit in float32")
    else:
        refuse(data < 0, "an interaction must have a positive value; remove it, or keep edge values (weights=True)")
    nonzero = data != 0
    return users[nonzero], items[nonzero], data[nonzero]


def to_int_array(x: Any, name: str) -> np.ndarray:
    a = to_numpy(x)
    if a.ndim != 1 or (a.size and a.dtype.kind not in "iu"):
        raise ValueError(
            f"InteractionGraph.from_pairs: {name} must be a 1-D sequence of integers, got shape {a.shape} of {a.dtype}"
        )
    return a.astype(np.int64)


def to_numpy(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
