"""InteractionGraph: the bipartite user-item graph as CSR and transposed CSR, checked once.

Every op that reads the graph takes its arrays as they are here, so the checks below are the only place where an
out-of-range, unsorted or duplicated index is looked for.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .arguments import check_tensors
from .modes import is_traced, lasting, outside_modes

NORMS = ("receiver", "both", "none")
_INT32_MAX = 2**31 - 1


class SeenRows(NamedTuple):
    """The items each of B users has interacted with, as a CSR block.

    crow: int64 [B + 1], offsets into `col`; col: int32 or int64 [nnz], item ids, ascending within a row.
    """

    crow: Tensor
    col: Tensor


class InteractionGraph:
    """Who interacted with what: U users, I items, nnz distinct pairs.

    Attributes (all on one device; never written to after construction):
        n_users, n_items, nnz: sizes.
        crow [U + 1] int64, col [nnz] int32 (int64 where I exceeds 2³¹ − 1): items of each user, ascending.
        t_crow [I + 1] int64, t_col [nnz]: users of each item, ascending (the transposed CSR).
        value, t_value: float32 [nnz] edge values in either order, or None (every edge counts 1).
        user_degree [U], item_degree [I]: int64 numbers of neighbours, ``|N_u|`` and ``|N_i|`` of Eq. 2.
        max_degree: most items of a user; n_eligible: users with both an item and a missing one, whom sample_bpr draws.

    Build one with `from_scipy` or `from_pairs`. The constructor takes finished arrays and raises ValueError where they
    are not as above: another dtype or length, offsets that fall or do not end at nnz, an index out of range or not
    ascending within its row, or two CSRs whose degrees are not each other's.
    """

    def __init__(
        self,
        crow: Tensor,
        col: Tensor,
        t_crow: Tensor,
        t_col: Tensor,
        *,
        n_users: int,
        n_items: int,
        value: Tensor | None = None,
        t_value: Tensor | None = None,
    ) -> None:
        for name, x in (("crow", crow), ("col", col), ("t_crow", t_crow), ("t_col", t_col)):
            check_tensors("InteractionGraph", **{name: x})
            if is_traced(x):
                raise ValueError(f"InteractionGraph: {name} has no values to check here; build the graph beforehand")
        with outside_modes():
            self._build_from(crow, col, t_crow, t_col, n_users, n_items, value, t_value)

    def _build_from(self, crow, col, t_crow, t_col, n_users: int, n_items: int, value, t_value) -> None:
        _check_csr("crow", crow, "col", col, n_users, n_items, value)
        _check_csr("t_crow", t_crow, "t_col", t_col, n_items, n_users, t_value)
        if col.numel() != t_col.numel() or col.device != t_col.device or (value is None) != (t_value is None):
            raise ValueError("InteractionGraph: the CSR and its transpose differ in entries, device or having values")
        crow, col, t_crow, t_col = (lasting(x) for x in (crow, col, t_crow, t_col))
        self.n_users, self.n_items, self.nnz = n_users, n_items, col.numel()
        self.crow, self.col, self.value = crow, col, None if value is None else lasting(value.detach())
        self.t_crow, self.t_col, self.t_value = t_crow, t_col, None if t_value is None else lasting(t_value.detach())
        self.user_degree, self.item_degree = crow.diff(), t_crow.diff()
        _check_degrees(self.item_degree, col, "t_crow", "col")
        _check_degrees(self.user_degree, t_col, "crow", "t_col")
        eligible = (self.user_degree > 0) & (self.user_degree < n_items)
        numbers = eligible.sum(), self.user_degree.max() if n_users else eligible.sum()
        self.n_eligible, self.max_degree = torch.stack(numbers).tolist()
        full = (self.user_degree == n_items).nonzero().flatten()
        self._full_users = full if n_items else full[:0]
        self._inv_sqrt_users = _inv_sqrt(self.user_degree, torch.float32)
        self._inv_sqrt_items = _inv_sqrt(self.item_degree, torch.float32)

    @classmethod
    def from_scipy(cls, matrix: sp.spmatrix | sp.sparray, weights: bool = False) -> InteractionGraph:
        """A graph from any SciPy sparse matrix [U, I].

        weights=False: every stored positive value is an edge of value 1, duplicates merged; a negative one is refused,
        since it would turn a dislike into an interaction. weights=True keeps edge values of either sign (float32),
        duplicates summed. Zeros, stored or summed to, are no edges. Raises ValueError when an index is out of range, or
        a value is not finite, not real or, without weights, negative.
        """
        where = "InteractionGraph.from_scipy"
        return cls._build(*_pairs_of(where, matrix), *matrix.shape, weights, where)

    @classmethod
    def from_pairs(cls, users, items, n_users: int, n_items: int, values=None) -> InteractionGraph:
        """A graph from two integer sequences of equal length (arrays, tensors or lists); repeated pairs are merged.

        values: optional edge values of either sign (float32, repeated pairs summed; zeros are no edges). Raises
        ValueError naming the first pair whose index is out of range or whose value is not finite.
        """
        users, items = _to_int_array(users, "users"), _to_int_array(items, "items")
        data = None if values is None else np.asarray(_to_numpy(values))
        where = "InteractionGraph.from_pairs"
        return cls._build(users, items, data, int(n_users), int(n_items), values is not None, where)

    @classmethod
    def _build(cls, users, items, data, n_users: int, n_items: int, weights: bool, where: str) -> InteractionGraph:
        csr = _csr_of(users, items, data, n_users, n_items, weights, where)
        csc = csr.tocsc()
        csc.sort_indices()

        def index_tensor(a, dtype):
            return torch.from_numpy(np.ascontiguousarray(a, dtype))

        with outside_modes():
            return cls(
                index_tensor(csr.indptr, np.int64),
                index_tensor(csr.indices, csr.indices.dtype),
                index_tensor(csc.indptr, np.int64),
                index_tensor(csc.indices, csr.indices.dtype),
                n_users=n_users,
                n_items=n_items,
                value=torch.from_numpy(csr.data) if weights else None,
                t_value=torch.from_numpy(csc.data) if weights else None,
            )

    @property
    def device(self) -> torch.device:
        return self.col.device

    def to(self, device: torch.device | str) -> InteractionGraph:
        """The same graph on `device` (itself when it is already there). What was checked is not checked again."""
        device = torch.device(device)
        if device == self.device or (device.index is None and device.type == self.device.type):
            return self
        moved = copy.copy(self)
        with outside_modes():
            for name, x in vars(self).items():
                if isinstance(x, Tensor):
                    setattr(moved, name, x.to(device))
        return moved

    def rows(self, users: Tensor) -> SeenRows:
        """The CSR block of `users` (integer [B], repeats allowed): SeenRows(crow [B + 1], col). Raises IndexError when
        an id is outside [0, U)."""
        check_tensors("InteractionGraph.rows", users=users)
        if users.ndim != 1 or users.dtype == torch.bool or users.is_floating_point() or users.is_complex():
            raise ValueError(
                f"InteractionGraph.rows: users must be integers [B], got {users.dtype} {tuple(users.shape)}"
            )
        users = users.to(self.device, torch.int64)
        low, high = (int(users.min()), int(users.max())) if users.numel() else (0, -1)
        if low < 0 or high >= self.n_users:
            raise IndexError(f"InteractionGraph.rows: users span [{low}, {high}], the graph has {self.n_users} users")
        counts = self.user_degree[users]
        crow = torch.zeros(users.numel() + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(counts, 0, out=crow[1:])
        shift = torch.repeat_interleave(self.crow[users] - crow[:-1], counts)
        return SeenRows(crow, self.col[torch.arange(shift.numel(), device=self.device) + shift])

    def inv_sqrt_degree(self, side: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """1 / sqrt(degree) of every user (side="users") or item (side="items"); 0 for a node with no neighbour."""
        if dtype == torch.float32:  # made with the graph: nothing is kept that a call under some mode has made
            return {"users": self._inv_sqrt_users, "items": self._inv_sqrt_items}[side]
        return _inv_sqrt({"users": self.user_degree, "items": self.item_degree}[side], dtype)

    def full_users(self) -> Tensor:
        """Ids (int64, ascending) of the users who have interacted with every item: they have no negative to sample."""
        return self._full_users

    def __repr__(self) -> str:
        weighted = ", weighted" if self.value is not None else ""
        size = f"{self.n_users} users x {self.n_items} items, {self.nnz} interactions"
        return f"InteractionGraph({size}{weighted}, {self.device})"


def interactions(matrix: sp.spmatrix | sp.sparray, where: str) -> sp.csr_array:
    """The pairs of a SciPy matrix [U, I] as `InteractionGraph.from_scipy` reads them: CSR of ones, distinct, sorted.

    where: what errors name.
    """
    return _csr_of(*_pairs_of(where, matrix), *matrix.shape, False, where)


def _pairs_of(where: str, matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not sp.issparse(matrix) or matrix.ndim != 2:
        raise ValueError(f"{where}: expected a 2-D SciPy sparse matrix, got {type(matrix).__name__}")
    if matrix.format == "csr":
        return _csr_to_pairs(matrix, where)
    coo = matrix.tocoo()
    return coo.row, coo.col, np.asarray(coo.data)


def _csr_of(users, items, data, n_users: int, n_items: int, weights: bool, where: str) -> sp.csr_array:
    if n_users < 0 or n_items < 0:
        raise ValueError(f"{where}: sizes must not be negative, got {n_users} users x {n_items} items")
    if len(users) != len(items) or (data is not None and len(data) != len(users)):
        raise ValueError(
            f"{where}: {len(users)} users, {len(items)} items, "
            f"{len(users) if data is None else len(data)} values: lengths differ"
        )
    for name, ids, size in (("user", users, n_users), ("item", items, n_items)):
        bad = np.flatnonzero((ids < 0) | (ids >= size))
        if bad.size:
            raise ValueError(f"{where}: pair {bad[0]} names {name} {ids[bad[0]]}, the graph has {size} {name}s")
    if data is not None:
        if data.ndim != 1:
            raise ValueError(f"{where}: values must be a 1-D sequence, got shape {data.shape}")
        users, items, data = _edges(users, items, data, weights, where)
    values = data.astype(np.float32) if weights else np.ones(len(users), np.float32)
    index = np.int32 if max(n_users, n_items) <= _INT32_MAX else np.int64
    csr = sp.coo_array((values, (users.astype(index), items.astype(index))), shape=(n_users, n_items)).tocsr()
    csr.sum_duplicates()
    if weights:
        csr.eliminate_zeros()
    else:
        csr.data[:] = 1
    csr.indices = csr.indices.astype(index, copy=False)
    return csr


def _edges(users, items, data, weights: bool, where: str):
    """The pairs whose value makes an edge, with those values."""
    if data.dtype.kind not in "biuf":
        raise ValueError(f"{where}: values must be real numbers, got {data.dtype}")

    def refuse(bad, rule: str) -> None:
        if bad.any():
            at = int(bad.argmax())
            raise ValueError(f"{where}: value {at} (user {users[at]}, item {items[at]}) is {data[at]:g}; {rule}")

    refuse(~np.isfinite(data), "values are finite")
    if weights:
        with np.errstate(over="ignore"):
            refuse(~np.isfinite(data.astype(np.float32)), "values fit float32")
    else:
        refuse(data < 0, "an interaction's value is positive; leave it out, or keep edge values (weights)")
    kept = data != 0
    return users[kept], items[kept], data[kept]


def _inv_sqrt(degree: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(degree > 0, degree.to(torch.float64).rsqrt(), 0.0).to(dtype)


def _check_csr(
    crow_name: str, crow: Tensor, col_name: str, col: Tensor, n_rows: int, n_cols: int, value: Tensor | None
) -> None:
    where = "InteractionGraph"
    if crow.dtype != torch.int64 or crow.ndim != 1 or crow.numel() != n_rows + 1 or not crow.is_contiguous():
        raise ValueError(
            f"{where}: {crow_name} must be contiguous int64 [{n_rows + 1}], got {crow.dtype} {tuple(crow.shape)}"
        )
    if col.dtype not in (torch.int32, torch.int64) or col.ndim != 1 or not col.is_contiguous():
        raise ValueError(
            f"{where}: {col_name} must be contiguous int32 or int64 [nnz], got {col.dtype} {tuple(col.shape)}"
        )
    if crow.device != col.device or (value is not None and value.device != col.device):
        raise ValueError(f"{where}: {crow_name} is on {crow.device}, {col_name} on {col.device}; all have one device")
    if value is not None and (value.dtype != torch.float32 or value.shape != col.shape):
        raise ValueError(f"{where}: values must be float32 {tuple(col.shape)}, got {value.dtype} {tuple(value.shape)}")
    if crow.is_meta:
        raise ValueError(f"{where}: {crow_name} has no values to check here; build the graph beforehand")
    steps = crow.diff()
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel() or bool((crow[1:] < crow[:-1]).any()):
        raise ValueError(f"{where}: {crow_name} must ascend from 0 to nnz = {col.numel()}")
    if not col.numel():
        return
    low, high = torch.aminmax(col)
    if int(low) < 0 or int(high) >= n_cols:
        raise ValueError(f"{where}: {col_name} spans [{int(low)}, {int(high)}], the other side has {n_cols} nodes")
    first = torch.zeros(col.numel(), dtype=torch.bool, device=col.device)  # of its row
    first[crow[:-1][steps > 0]] = True
    bad = ~first[1:] & (col.diff() <= 0)
    if bool(bad.any()):
        raise ValueError(f"{where}: {col_name} does not ascend within its row at entry {int(bad.nonzero()[0]) + 1}")


def _check_degrees(degree: Tensor, col: Tensor, crow_name: str, col_name: str) -> None:
    counts = torch.bincount(col, minlength=degree.numel())
    if not torch.equal(counts, degree):
        node = int((counts != degree).nonzero()[0])
        raise ValueError(
            f"InteractionGraph: {col_name} names node {node} {int(counts[node])} times, {crow_name} says "
            f"{int(degree[node])}"
        )


def _to_numpy(x) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def _to_int_array(x, name: str) -> np.ndarray:
    a = _to_numpy(x)
    if a.ndim != 1 or (a.size and a.dtype.kind not in "iu"):
        raise ValueError(
            f"InteractionGraph.from_pairs: {name} must be a 1-D sequence of integers, got shape {a.shape} of {a.dtype}"
        )
    return a.astype(np.int64)


def _csr_to_pairs(matrix, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The (row, column, value) triples of a CSR whose arrays may be inconsistent: checked before anything reads through
    them, because SciPy's own conversions do not."""
    indptr, indices, data = np.asarray(matrix.indptr), np.asarray(matrix.indices), np.asarray(matrix.data)
    n_rows = matrix.shape[0]
    if (
        len(indptr) != n_rows + 1
        or indptr[0] != 0
        or (np.diff(indptr) < 0).any()
        or indptr[-1] > min(len(indices), len(data))
    ):
        raise ValueError(
            f"{where}: indptr of length {len(indptr)} does not describe {n_rows} rows over {len(indices)} indices"
        )
    nnz = int(indptr[-1])
    return np.repeat(np.arange(n_rows), np.diff(indptr)), indices[:nnz], data[:nnz]
