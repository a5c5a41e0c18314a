"""Other numbers for users and items, so that consecutive ones have equal shares of the interactions.

Groups of ranks divide the graph by consecutive users and items (mmssl_fast.distributed.GroupGraph). The numbers are not
visible outside: ids, features, splits and weights are moved with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..dataset import SPLITS
from ..layouts.prepared import WEIGHTS, mapped
from .write import Npy

BY_DEGREE = "degree"
RULES = ("none", BY_DEGREE)
NOTE = "users and items are numbered so that equal blocks of them have about equally many interactions"
# Nodes are halved so many times. A block that ends within one of the 2^HALVINGS parts may have a few more interactions.
HALVINGS = 8
_BLOCK, _BLOCK_BYTES = 1 << 22, 1 << 26  # interactions, and bytes of other arrays, that are moved at once


def renumbered(folder: Path, shape: tuple[int, int], modalities: Iterable[str], notes: list[str]) -> None:
    """Give the users and items of the arrays in `folder` other numbers, before its manifest is written. Appends a note.

    Memory: about 75 bytes for each user and item, and blocks. Disk: a second copy of the largest array.
    """
    n_items = shape[1]
    indptr, indices = (mapped(folder / f"train_{part}.npy") for part in ("indptr", "indices"))
    degrees = np.zeros(n_items, np.int64)
    for begin in range(0, len(indices), _BLOCK):
        degrees += np.bincount(indices[begin : begin + _BLOCK], minlength=n_items)
    users, items = balanced_order(np.diff(indptr)), balanced_order(degrees)
    del indptr, indices, degrees
    number = np.empty(n_items, np.int32)
    number[items] = np.arange(n_items, dtype=np.int32)
    for split in SPLITS:
        _renumber_split(folder, split, users, number)
    for modality in modalities:
        _reorder(folder / f"{modality}_feat.npy", items)
    for side, order in (("user", users), ("item", items)):
        path = folder / f"{side}_ids.npy"
        if not path.exists():
            np.save(path, np.arange(len(order)))  # the ids are the former numbers
        _reorder(path, order)
    if NOTE not in notes:
        notes.append(NOTE)


def balanced_order(degrees: np.ndarray) -> np.ndarray:
    """The nodes in an order of which any division into equal blocks has about equal sums of degrees, int64 [n].

    All nodes are divided into two halves with equally many nodes and almost equal sums, these again, and so on. In each
    division the node with the highest degree that is left goes to the half with the lower sum, as in the LPT rule
    (Graham, SIAM J. Appl. Math. 17, 1969), while this half has room. Nodes of one degree are divided at once, so that
    the work depends on the number of distinct degrees. Equal degrees keep their order.

    degrees: integer [n], not negative.
    """
    n = len(degrees)
    if not n:
        return np.empty(0, np.int64)
    values, of_node, counts = np.unique(-np.asarray(degrees, np.int64), return_inverse=True, return_counts=True)
    # Halves have equally many nodes, so that the lowest degree can be subtracted from all: these nodes fill the halves.
    weights = values[-1] - values
    parts = counts[None]
    for _ in range(min(HALVINGS, n.bit_length())):
        parts = _halved(parts, weights)
    by_degree = np.argsort(of_node, kind="stable")  # highest first
    part = np.repeat(np.tile(np.arange(len(parts)), len(weights)), parts.T.ravel())
    order = np.argsort(part, kind="stable")
    by_degree, part = by_degree[order], part[order]
    place = np.arange(n) - np.searchsorted(part, part)
    # The highest degrees lie in the middle of a part, because blocks end near the ends of parts.
    return by_degree[np.lexsort((np.where(place % 2, place, -place), part))]


def _halved(parts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Two parts for each one: the numbers of nodes of each weight, int64 [2s, k] from [s, k]. Weights descend to 0."""
    total = parts.sum(axis=1)
    room = [(total + 1) // 2, total // 2]
    first, ahead = np.empty_like(parts), np.zeros(len(parts), np.int64)  # sum of the first half less the second
    for k, weight in enumerate(weights.tolist()):
        count = parts[:, k]
        wanted = count // 2
        if weight:
            wanted = (count - np.rint(ahead / weight).astype(np.int64)) // 2
        taken = np.clip(wanted, np.maximum(0, count - room[1]), np.minimum(count, room[0]))
        room = [room[0] - taken, room[1] - (count - taken)]
        ahead += weight * (2 * taken - count)
        first[:, k] = taken
    return np.stack([first, parts - first], axis=1).reshape(-1, parts.shape[1])


def _renumber_split(folder: Path, split: str, users: np.ndarray, number: np.ndarray) -> None:
    """Rewrite the CSR of a split, and the weights of the training interactions. number: the new one of each item."""
    paths = [folder / f"{split}_{part}.npy" for part in ("indptr", "indices")]
    weight_path = folder / WEIGHTS
    with_weights = split == "train" and weight_path.exists()
    if with_weights:
        paths.append(weight_path)
    indptr, indices, *weights = (mapped(path) for path in paths)
    counts = np.diff(indptr)[users]
    offsets = np.append(0, np.cumsum(counts))
    with Npy(_new(paths[1]), "<i4") as file:
        weight_file = Npy(_new(weight_path), "<f4") if with_weights else None
        for first, last in _blocks(offsets):
            begin, some = indptr[users[first:last]], counts[first:last]
            row = np.repeat(np.arange(last - first), some)
            entries = begin[row] + np.arange(len(row)) - (offsets[first:last] - offsets[first])[row]
            items = number[indices[entries]]
            order = np.lexsort((items, row))
            file.add(items[order])
            if weight_file:
                weight_file.add(weights[0][entries[order]])
        if weight_file:
            weight_file.__exit__()
    del indptr, indices, weights
    np.save(paths[0], offsets)
    for path in paths[1:]:
        os.replace(_new(path), path)


def _blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of consecutive users with at most _BLOCK interactions, or of one user with more."""
    first, n = 0, len(offsets) - 1
    while first < n:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK, "right")) - 1
        last = min(n, max(last, first + 1))
        yield first, last
        first = last


def _reorder(path: Path, order: np.ndarray) -> None:
    """Replace the rows of a .npy file by ``rows[order]``."""
    values = mapped(path)
    width = values.shape[1] if values.ndim > 1 else None
    step = max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
    with Npy(_new(path), values.dtype, width) as file:
        for begin in range(0, len(order), step):
            file.add(values[order[begin : begin + step]])
    del values
    os.replace(_new(path), path)


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
