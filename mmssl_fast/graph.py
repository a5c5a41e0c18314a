"""InteractionGraph: the bipartite user-item graph as a CSR matrix and its transpose.

The constructor checks the arrays. The ops that read them do not check again for indices that are out of range, unsorted
or duplicated.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .arguments import check_tensors
from .modes import is_traced, lasting, outside_modes
from .pairs import csr_of, pairs_of, to_int_array, to_numpy

NORMS = ("receiver", "both", "none")


class SeenRows(NamedTuple):
    """The items that B users interacted with, as a CSR block. Equals the row and column arrays of
    ``torch.sparse_csr_tensor(crow, col, ones)``.

    Args:
        crow: int64 [B + 1], offsets into `col`.
        col: int32 or int64 [nnz], item ids, ascending within a row.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> graph.rows(torch.tensor([1, 0]))
        SeenRows(crow=tensor([0, 1, 3]), col=tensor([1, 0, 2], dtype=torch.int32))
    """

    crow: Tensor
    col: Tensor


def offsets_of(counts: Tensor) -> Tensor:
    """The CSR offsets, int64 [n + 1], of rows with `counts` [n] entries."""
    crow = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=crow[1:])
    return crow


def entries_of_rows(crow: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The positions of the entries of the given rows, int64 [b], row by row, and their offsets, int64 [b + 1]."""
    counts = crow[rows + 1] - crow[rows]
    offsets = offsets_of(counts)
    shift = torch.repeat_interleave(crow[rows] - offsets[:-1], counts)
    return torch.arange(shift.numel(), device=crow.device) + shift, offsets


class InteractionGraph:
    """The bipartite graph of U users and I items, stored as the CSR arrays of its matrix A [U, I] and of A.T.

    Create a graph with `from_scipy` or `from_pairs`. The constructor takes existing CSR arrays and checks them.

    Args:
        crow: int64 [U + 1], offsets of the users into `col`.
        col: int32 (int64 if U or I exceeds 2³¹ − 1) [nnz], the items of each user, ascending.
        t_crow: int64 [I + 1], offsets of the items into `t_col`.
        t_col: [nnz], the users of each item, ascending.
        n_users, n_items: U and I.
        value, t_value: float32 [nnz], edge values in the order of `col` and of `t_col`, or None if all are 1.

    Attributes:
        n_users, n_items, nnz: numbers of users, items and distinct pairs.
        crow, col, value, t_crow, t_col, t_value: the arguments. They must not be changed.
        user_degree, item_degree: int64 [U] and [I], numbers of neighbours ``|N_u|`` and ``|N_i|`` of equation 2.
        max_degree: the largest user degree.
        n_eligible: number of users with at least one item and at least one missing item, whom `sample_bpr` can draw.

    Raises:
        ValueError: an array has another dtype or length, offsets decrease or do not end at nnz, an index is out of
            range or not ascending within its row, or the degrees of the two CSR matrices do not match.

    Example:
        >>> graph = InteractionGraph.from_pairs(users=[0, 0, 1], items=[0, 2, 1], n_users=2, n_items=3)
        >>> graph
        InteractionGraph(2 users x 3 items, 3 interactions, cpu)
        >>> graph.user_degree, graph.item_degree
        (tensor([2, 1]), tensor([1, 1, 1]))
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
                raise ValueError(
                    f"InteractionGraph: {name} has no values to check while it is traced; create the graph beforehand"
                )
        with outside_modes():  # so that a graph created under some mode can be used under any
            _check_csr("crow", crow, "col", col, n_users, n_items, value)
            _check_csr("t_crow", t_crow, "t_col", t_col, n_items, n_users, t_value)
            if col.numel() != t_col.numel() or col.device != t_col.device or (value is None) != (t_value is None):
                raise ValueError(
                    "InteractionGraph: the CSR matrix and its transpose must have the same number of entries, the same "
                    "device, and both or neither of value and t_value"
                )
            crow, col, t_crow, t_col = (lasting(x) for x in (crow, col, t_crow, t_col))
            self.n_users, self.n_items, self.nnz = n_users, n_items, col.numel()
            self.crow, self.col, self.t_crow, self.t_col = crow, col, t_crow, t_col
            self.value = None if value is None else lasting(value.detach())
            self.t_value = None if t_value is None else lasting(t_value.detach())
            self.user_degree, self.item_degree = crow.diff(), t_crow.diff()
            _check_degrees(self.item_degree, col, "t_crow", "col")
            _check_degrees(self.user_degree, t_col, "crow", "t_col")
            eligible = (self.user_degree > 0) & (self.user_degree < n_items)
            numbers = eligible.sum(), self.user_degree.max() if n_users else eligible.sum()
            self.n_eligible, self.max_degree = torch.stack(numbers).tolist()  # one synchronisation with the GPU
            full = (self.user_degree == n_items).nonzero().flatten()
            self._full_users = full if n_items else full[:0]
            self._inv_sqrt_users = _inv_sqrt(self.user_degree, torch.float32)
            self._inv_sqrt_items = _inv_sqrt(self.item_degree, torch.float32)

    @classmethod
    def from_scipy(cls, matrix: sp.spmatrix | sp.sparray, weights: bool = False) -> InteractionGraph:
        """Creates a graph from a SciPy sparse matrix [U, I] of any format. Zeros are not edges.

        Args:
            matrix: SciPy sparse matrix or array.
            weights: False: every positive value is an edge of value 1, and duplicates are merged. Negative values raise
                an error, because they would turn a dislike into an interaction. True: values of either sign are kept as
                float32 edge values, and duplicates are added.

        Raises:
            ValueError: an index is out of range, or a value is not finite, not real or, without weights, negative.

        Example:
            >>> import scipy.sparse
            >>> matrix = scipy.sparse.csr_array([[3, 0, 5], [0, 1, 0]])
            >>> InteractionGraph.from_scipy(matrix).nnz
            3
            >>> InteractionGraph.from_scipy(matrix, weights=True).value
            tensor([3., 5., 1.])
        """
        where = "InteractionGraph.from_scipy"
        return cls._build(*pairs_of(where, matrix), matrix.shape[0], matrix.shape[1], weights, where)

    @classmethod
    def from_pairs(cls, users: Any, items: Any, n_users: int, n_items: int, values: Any = None) -> InteractionGraph:
        """Creates a graph from the pairs (users[k], items[k]). Repeated pairs are merged.

        Args:
            users, items: sequences of integers of the same length: arrays, tensors or lists.
            n_users, n_items: U and I.
            values: edge values of either sign, or None. They become float32, the values of repeated pairs are added,
                and zeros are not edges.

        Raises:
            ValueError: an index is out of range or a value is not finite. The error names the first such pair.

        Example:
            >>> InteractionGraph.from_pairs([0, 0, 0], [1, 1, 2], n_users=1, n_items=3).col
            tensor([1, 2], dtype=torch.int32)
        """
        users, items = to_int_array(users, "users"), to_int_array(items, "items")
        data = None if values is None else np.asarray(to_numpy(values))
        where = "InteractionGraph.from_pairs"
        return cls._build(users, items, data, int(n_users), int(n_items), values is not None, where)

    @classmethod
    def _build(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        data: np.ndarray | None,
        n_users: int,
        n_items: int,
        weights: bool,
        where: str,
    ) -> InteractionGraph:
        csr = csr_of(users, items, data, n_users, n_items, weights, where)
        csc = csr.tocsc()
        csc.sort_indices()

        def index_tensor(a: np.ndarray, dtype: type | np.dtype) -> Tensor:
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
        """The graph on `device`; the same object if it already is there. The arrays are not checked again."""
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
        """The items of some users. Equals ``scipy_matrix[users]`` as a CSR block.

        Args:
            users: integer [B]. Users may repeat.

        Returns:
            SeenRows(crow [B + 1], col).

        Raises:
            IndexError: a user lies outside [0, U).

        Example:
            >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
            >>> graph.rows(torch.tensor([1, 0])).col
            tensor([1, 0, 2], dtype=torch.int32)
        """
        check_tensors("InteractionGraph.rows", users=users)
        if users.ndim != 1 or users.dtype == torch.bool or users.is_floating_point() or users.is_complex():
            raise ValueError(
                f"InteractionGraph.rows: users must be an integer tensor [B], got {users.dtype} {tuple(users.shape)}"
            )
        users = users.to(self.device, torch.int64)
        low, high = (int(users.min()), int(users.max())) if users.numel() else (0, -1)
        if low < 0 or high >= self.n_users:
            raise IndexError(
                f"InteractionGraph.rows: users must lie in [0, {self.n_users}), got ids from {low} to {high}"
            )
        entries, crow = entries_of_rows(self.crow, users)
        return SeenRows(crow, self.col[entries])

    def inv_sqrt_degree(self, side: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """1 / sqrt(degree) of every user (side="users") or item (side="items"). A node without neighbours has 0."""
        if dtype == torch.float32:  # computed by the constructor, because a cache would depend on the mode of a call
            return {"users": self._inv_sqrt_users, "items": self._inv_sqrt_items}[side]
        return _inv_sqrt({"users": self.user_degree, "items": self.item_degree}[side], dtype)

    def full_users(self) -> Tensor:
        """Ids (int64, ascending) of the users who interacted with every item, and thus have no negative item."""
        return self._full_users

    def __repr__(self) -> str:
        weighted = ", weighted" if self.value is not None else ""
        size = f"{self.n_users} users x {self.n_items} items, {self.nnz} interactions"
        return f"InteractionGraph({size}{weighted}, {self.device})"


def interactions(matrix: sp.spmatrix | sp.sparray, where: str) -> sp.csr_array:
    """The interactions in a SciPy matrix [U, I], by the rules of `InteractionGraph.from_scipy`: a CSR array of ones
    with distinct, sorted indices. `where` is the function that errors name."""
    return csr_of(*pairs_of(where, matrix), matrix.shape[0], matrix.shape[1], False, where)


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
        raise ValueError(
            f"{where}: all arrays must be on the same device, got {crow_name} on {crow.device} and {col_name} on "
            f"{col.device}"
        )
    if value is not None and (value.dtype != torch.float32 or value.shape != col.shape):
        raise ValueError(f"{where}: values must be float32 {tuple(col.shape)}, got {value.dtype} {tuple(value.shape)}")
    if crow.is_meta:
        raise ValueError(f"{where}: {crow_name} is on the meta device and has no values to check")
    counts = crow.diff()
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel() or bool((crow[1:] < crow[:-1]).any()):
        raise ValueError(f"{where}: {crow_name} must be non-decreasing from 0 to nnz = {col.numel()}")
    if not col.numel():
        return
    low, high = torch.aminmax(col)
    if int(low) < 0 or int(high) >= n_cols:
        raise ValueError(f"{where}: {col_name} must lie in [0, {n_cols}), got indices from {int(low)} to {int(high)}")
    first_of_row = torch.zeros(col.numel(), dtype=torch.bool, device=col.device)
    first_of_row[crow[:-1][counts > 0]] = True
    bad = ~first_of_row[1:] & (col.diff() <= 0)
    if bool(bad.any()):
        raise ValueError(
            f"{where}: {col_name} must be ascending within a row, but entry {int(bad.nonzero()[0]) + 1} is not larger "
            "than the entry before it"
        )


def _check_degrees(degree: Tensor, col: Tensor, crow_name: str, col_name: str) -> None:
    counts = torch.bincount(col, minlength=degree.numel())
    if not torch.equal(counts, degree):
        node = int((counts != degree).nonzero()[0])
        raise ValueError(
            f"InteractionGraph: node {node} occurs {int(counts[node])} times in {col_name}, but has "
            f"{int(degree[node])} entries according to {crow_name}"
        )
