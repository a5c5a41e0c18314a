"""The part of the interaction graph that the ranks of a group have, for graphs that do not fit into the memory of one.

Ranks g·C to (g + 1)·C − 1 are group g (`Ranks.groups`). Its nodes are the users and items whose rows these ranks have.
Every rank of the group stores the edges of these users and those of these items, about E/G + E/G of E edges, and the
degrees of all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn, cast

import numpy as np
import torch
from torch import Tensor

from ..graph import InteractionGraph, SeenRows, _inv_sqrt, entries_of_rows, offsets_of
from .ranks import Ranks
from .transfers import all_sum

BLOCK = 1 << 22  # edges that are read at once
_WHOLE = ("crow", "col", "t_crow", "t_col", "value", "t_value")


class Block(NamedTuple):
    """The edges of the nodes of this group with the nodes of one group on the other side, in CSR form.

    crow: int64 [n_g + 1]. col: int32, nodes of the other side counted from the first one of its group, ascending.
    """

    crow: Tensor
    col: Tensor


class BatchRows(NamedTuple):
    """What the Gumbel ops read of an InteractionGraph, with the rows of a batch only; the other rows are empty."""

    crow: Tensor
    col: Tensor
    n_items: int
    max_degree: int
    nnz: int

    @property
    def device(self) -> torch.device:
        return self.col.device

    def to(self, device: torch.device | str) -> BatchRows:
        return self._replace(crow=self.crow.to(device), col=self.col.to(device))


class GroupGraph(InteractionGraph):
    """The edges of the graph of U users and I items that belong to the group of this rank. Create it with `from_csr`
    or `from_blocks`.

    Attributes:
        n_users, n_items, nnz, user_degree, item_degree, max_degree, n_eligible: of the whole graph. The degrees are
            int32.
        blocks: {"users": {first: Block}, "items": {first: Block}}: the edges by which the users, or the items, of this
            group receive; a block for the nodes of each group on the other side, by the first of these.
        ranks: the processes.

    The attributes with arrays of the whole graph (crow, col, …) raise AttributeError. The functions of
    `mmssl_fast.distributed` take such a graph; those for one process do not.

    Example:
        >>> graph = GroupGraph.from_csr(np.array([0, 2, 3]), np.array([0, 2, 1]), 3, Ranks(0, 2).divided(2))
        >>> graph
        GroupGraph(2 users x 3 items, 3 interactions, group 0 of 2 with 2 + 2 of them, cpu)
    """

    def __init__(
        self, blocks: dict[str, dict[int, Block]], user_degree: Tensor, item_degree: Tensor, ranks: Ranks
    ) -> None:
        self.blocks, self.ranks = blocks, ranks
        self._batch: tuple[Tensor, int, BatchRows] | None = None  # the last batch, its version, and its rows
        self.user_degree, self.item_degree = user_degree, item_degree
        self.n_users, self.n_items = user_degree.numel(), item_degree.numel()
        self.nnz = int(user_degree.sum())
        eligible = (user_degree > 0) & (user_degree < self.n_items)
        self.n_eligible = int(eligible.sum())
        self.max_degree = int(user_degree.max()) if self.n_users else 0
        full = (user_degree == self.n_items).nonzero().flatten()
        self._full_users = full if self.n_items else full[:0]
        self._inv_sqrt_users = _inv_sqrt(user_degree, torch.float32)
        self._inv_sqrt_items = _inv_sqrt(item_degree, torch.float32)

    @classmethod
    def from_csr(cls, indptr: np.ndarray, indices: np.ndarray, n_items: int, ranks: Ranks) -> GroupGraph:
        """Reads the CSR matrix [U, I] in blocks, and keeps the edges of the group of this rank.

        The arrays may be memory-mapped: of their pages, those of one block and of the group's users need be in memory.

        Args:
            indptr: integer [U + 1], offsets of the users.
            indices: integer [nnz], the items of each user, ascending and distinct.
            n_items: I.
            ranks: the processes, in groups.

        Raises:
            ValueError: offsets decrease or do not end at nnz, or an item is out of range or not above the one before.
        """
        n_users = len(indptr) - 1
        offsets = np.asarray(indptr, np.int64)
        if n_users < 0 or offsets[0] != 0 or offsets[-1] != len(indices) or (np.diff(offsets) < 0).any():
            raise ValueError(f"GroupGraph: indptr must be non-decreasing from 0 to nnz = {len(indices)}")

        def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for begin in range(0, len(indices), BLOCK):
                items = np.asarray(indices[begin : begin + BLOCK])
                yield _users_of(offsets, begin, len(items)), items

        return cls.from_blocks(blocks(), n_users, n_items, ranks)

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[tuple[np.ndarray, np.ndarray]], n_users: int, n_items: int, ranks: Ranks
    ) -> GroupGraph:
        """Takes the edges of the whole graph in blocks, and keeps those of the group of this rank.

        Args:
            blocks: (users, items) of edges, int32 [b] and integer [b]. The users ascend from block to block, and so do
                the items of a user, which are distinct.
            n_users, n_items: U and I.
            ranks: the processes, in groups.

        Raises:
            ValueError: a user or an item is out of range or not above the one before.
        """
        spans = {"users": ranks.groups.span(n_users), "items": ranks.groups.span(n_items)}
        degrees = {"users": np.zeros(n_users, np.int32), "items": np.zeros(n_items, np.int32)}
        kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"users": [], "items": []}
        seen, last = 0, (-1, n_items)
        for users, items in blocks:
            if not len(items):
                continue
            steps, above = np.diff(users), (int(users[0]), int(items[0])) > last
            if (
                not above
                or (steps < 0).any()
                or (np.diff(items) <= 0)[steps == 0].any()
                or users[-1] >= n_users
                or items.min() < 0
                or items.max() >= n_items
            ):
                raise ValueError(
                    f"GroupGraph: indices must lie in [0, {n_items}) and ascend within each row, but an entry from "
                    f"{seen} to {seen + len(items) - 1} does not"
                )
            seen, last = seen + len(items), (int(users[-1]), int(items[-1]))
            lowest = int(users[0])
            counts = np.bincount(users - lowest)
            degrees["users"][lowest : lowest + len(counts)] += counts.astype(np.int32)
            degrees["items"] += np.bincount(items, minlength=n_items).astype(np.int32)
            for side, nodes, others in (("users", users, items), ("items", items, users)):
                first, end = spans[side]
                here = (nodes >= first) & (nodes < end)
                kept[side].append(((nodes[here] - first).astype(np.int32), others[here].astype(np.int32)))
        parts = {}
        for side, n_others in (("users", n_items), ("items", n_users)):
            none = np.empty(0, np.int32)
            rows, others = (np.concatenate([none, *(pair[at] for pair in kept[side])]) for at in (0, 1))
            del kept[side]
            first, end = spans[side]
            parts[side] = _blocks(rows, others, end - first, ranks.groups.spans(n_others))
            del rows, others
        user_degree, item_degree = (torch.from_numpy(degrees[side]) for side in ("users", "items"))
        return cls(parts, user_degree, item_degree, ranks)

    def __getattr__(self, name: str) -> NoReturn:
        if name in _WHOLE:
            raise AttributeError(
                f"GroupGraph: has no {name}, because a rank has the edges of its group only; use the functions of "
                "mmssl_fast.distributed"
            )
        raise AttributeError(f"GroupGraph: has no attribute {name}")

    @property
    def device(self) -> torch.device:
        return self.user_degree.device

    def to(self, device: torch.device | str) -> GroupGraph:
        """The graph on `device`; the same object if it already is there."""
        moved = cast(GroupGraph, super().to(device))
        if moved is self:
            return self
        moved._batch = None
        moved.blocks = {
            side: {first: Block(*(x.to(device) for x in block)) for first, block in blocks.items()}
            for side, blocks in self.blocks.items()
        }
        return moved

    def nbytes(self) -> int:
        """Bytes of all arrays: 8 for each edge of the group, about 2·E/G, and 16 for each user and item."""
        blocks = [x for side in self.blocks.values() for block in side.values() for x in block]
        tensors = [x for x in vars(self).values() if isinstance(x, Tensor)]
        return sum(x.nbytes for x in (*blocks, *tensors))

    def own_rows(self, users: Tensor) -> SeenRows:
        """The items of users of this group, without communication. Equals ``scipy_matrix[users]`` as a CSR block.

        Args:
            users: int64 [B], in ``ranks.groups.span(U)``. Users may repeat.
        """
        local = users.to(self.device, torch.int64) - self.ranks.groups.span(self.n_users)[0]
        slots, items = [local[:0]], [local[:0]]
        for first, (crow, col) in self.blocks["users"].items():
            entries, offsets = entries_of_rows(crow, local)
            slots.append(torch.repeat_interleave(torch.arange(len(local), device=self.device), offsets.diff()))
            items.append(col[entries].long() + first)
        # The blocks are in ascending order of their items, so that a stable sort leaves the items of a row ascending.
        slot, order = torch.cat(slots).sort(stable=True)
        counts = torch.bincount(slot, minlength=len(local))
        return SeenRows(offsets_of(counts), torch.cat(items)[order].to(self._index))

    def rows(self, users: Tensor) -> SeenRows:
        """The items of some users. Equals ``scipy_matrix[users]`` as a CSR block, on every rank.

        All ranks must call it with the same users. The rank of each group that has the edges of a user sends them. A
        rank receives 8·n·(G − 1)/G bytes for the n items of the distinct users.

        Raises:
            IndexError: a user lies outside [0, U).
        """
        rows = self.batch_rows(users)
        entries, crow = entries_of_rows(rows.crow, users.to(self.device, torch.int64))
        return SeenRows(crow, rows.col[entries])

    def batch_rows(self, users: Tensor) -> BatchRows:
        """The rows of the distinct users of a batch, for the Gumbel ops, whose noise depends on the user.

        Communicates like `rows`. The rows of the last batch are kept, so that several calls of the two methods with the
        same tensor communicate once.
        """
        known = self._batch
        if known is not None and known[0] is users and known[1] == users._version:
            return known[2]
        distinct = users.to(self.device, torch.int64).unique()  # ascending
        if len(distinct) and not 0 <= int(distinct[0]) <= int(distinct[-1]) < self.n_users:
            raise IndexError(f"GroupGraph.rows: users must lie in [0, {self.n_users})")
        counts = self.user_degree[distinct].long()
        offsets = offsets_of(counts)
        col = torch.zeros(int(offsets[-1]), dtype=self._index, device=self.device)
        slots = self._own_slots(distinct)
        entries, _ = entries_of_rows(offsets, slots)
        col[entries] = self.own_rows(distinct[slots]).col
        whole = torch.zeros(self.n_users, dtype=torch.int64, device=self.device).index_put((distinct,), counts)
        col = all_sum(col, self.ranks.groups)  # one rank has a term
        rows = BatchRows(offsets_of(whole), col, self.n_items, self.max_degree, self.nnz)
        self._batch = users, users._version, rows
        return rows

    def _own_slots(self, users: Tensor) -> Tensor:
        """The positions in `users` of those whose edges this group has."""
        first, last = self.ranks.groups.span(self.n_users)
        return ((users >= first) & (users < last)).nonzero().flatten()

    @property
    def _index(self) -> torch.dtype:
        return torch.int32 if max(self.n_users, self.n_items) < 2**31 else torch.int64

    def __repr__(self) -> str:
        size = f"{self.n_users} users x {self.n_items} items, {self.nnz} interactions"
        groups = self.ranks.groups
        own = " + ".join(str(sum(len(block.col) for block in side.values())) for side in self.blocks.values())
        return f"GroupGraph({size}, group {groups.rank} of {groups.size} with {own} of them, {self.device})"


def _users_of(offsets: np.ndarray, begin: int, count: int) -> np.ndarray:
    """The users of the entries begin to begin + count − 1, int32."""
    first = int(np.searchsorted(offsets, begin, "right")) - 1
    last = int(np.searchsorted(offsets, begin + count, "left"))
    inside = np.diff(np.clip(offsets[first : last + 1], begin, begin + count))
    return np.repeat(np.arange(first, last, dtype=np.int32), inside)


def _blocks(rows: np.ndarray, nodes: np.ndarray, n_rows: int, spans: list[tuple[int, int]]) -> dict[int, Block]:
    """{first: Block} of the edges (rows[e], nodes[e]) for every span of nodes that is not empty. The nodes of a row
    ascend in the order of the edges."""
    blocks: dict[int, Block] = {}
    for first, last in spans:
        if first == last:
            continue
        here = np.flatnonzero((nodes >= first) & (nodes < last))
        row = torch.from_numpy(rows[here])
        col = torch.from_numpy((nodes[here] - first).astype(np.int32))
        crow = offsets_of(torch.bincount(row, minlength=n_rows))
        blocks[first] = Block(crow, col[row.sort(stable=True).indices])
    return blocks


def batch_rows(graph: InteractionGraph, users: Tensor) -> InteractionGraph:
    """What the Gumbel ops read for a batch of users: the graph itself, or with groups `GroupGraph.batch_rows`.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> batch_rows(graph, torch.tensor([1])) is graph
        True
    """
    return cast(InteractionGraph, graph.batch_rows(users)) if isinstance(graph, GroupGraph) else graph


def own_rows(graph: InteractionGraph, users: Tensor) -> SeenRows:
    """Equals ``graph.rows(users)`` for users of this rank, without communication.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> own_rows(graph, torch.tensor([0])).col
        tensor([0, 2], dtype=torch.int32)
    """
    return graph.own_rows(users) if isinstance(graph, GroupGraph) else graph.rows(users)
