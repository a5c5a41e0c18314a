"""Source, the result of reading a layout of another project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...errors import InputError
from ..arrow import Column, numbers_or_texts
from ..dataset import SPLITS, Dataset, Splits
from ..features import ENDS
from ..npy import npy_rows

# What a reader of tables returns: (users, items, {rating, timestamp: [n]}, split or None, names of unread columns).
Columns: TypeAlias = tuple[Column, Column, dict[str, np.ndarray], Column | None, list[str]]


@dataclass
class Source:
    """Interactions with ids as text, and features.

    users, items, splits: Columns of the same rows; splits (train, val, test) is None without a split. numbers: rating
    and timestamp, [n]. user_ids, item_ids: all ids in the order of the feature rows; None if only the interactions
    contain ids. features: {modality: (Column of item ids, [n, d])}. copied: feature files that can be copied unchanged.
    item_columns: {name: text of each of item_ids, None for an empty cell}, such as titles.
    """

    users: Column
    items: Column
    splits: Column | None = None
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    user_ids: list[str] | None = None
    item_ids: list[str] | None = None
    features: dict[str, tuple[Column, np.ndarray]] = field(default_factory=dict)
    copied: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    item_columns: dict[str, list[str | None]] = field(default_factory=dict)


def of_dataset(data: Dataset) -> Source:
    """A Dataset as a Source."""
    pairs = [getattr(data, split).tocoo() for split in SPLITS]
    users, items = (np.concatenate([getattr(p, side) for p in pairs]).astype(np.int64) for side in ("row", "col"))
    user_ids, item_ids = (
        list(map(str, ids.tolist()))
        for ids in (data.original_users(np.arange(data.n_users)), data.original_items(np.arange(data.n_items)))
    )
    splits = Column(list(SPLITS), np.repeat(np.arange(3), [split.nnz for split in pairs]))
    all_items = Column(item_ids, np.arange(data.n_items))
    features = {name: (all_items, values) for name, values in data.features.items()}
    return Source(Column(user_ids, users), Column(item_ids, items), splits, {}, user_ids, item_ids, features)


def of_indices(
    folder: Path,
    pairs: Splits,
    shape: tuple[int, int] | None = None,
    first_item: int = 0,
    ids: Sequence[list[str] | None] = (None, None),
) -> Source:
    """A Source from {split: (users, items)}, int64 index pairs. Items are counted from first_item.

    shape: (number of users, number of items); default: from the pairs and the feature files. ids: original ids of users
    and items by index; default: the indices.
    """
    splits = [split for split in SPLITS if split in pairs]
    users, items = (np.concatenate([pairs[split][axis] for split in splits]).astype(np.int64) for axis in (0, 1))
    copied = feature_paths(folder)
    rows = [npy_rows(path) for path in copied if path.suffix == ".npy"]
    counts = list(shape) if shape else [users.max(initial=-1) + 1, max([items.max(initial=-1) + 1 - first_item, *rows])]
    names = [
        list(texts) if texts else [str(first + i) for i in range(count)]
        for texts, count, first in zip(ids, counts, (0, first_item), strict=True)
    ]
    for side, index, first, count in (("user", users, 0, len(names[0])), ("item", items, first_item, len(names[1]))):
        if len(index) and not (index.min() >= first and index.max() - first < count):
            raise InputError(
                f"{folder}: contains {side} {index.max() if index.max() - first >= count else index.min()}, but has "
                f"{count} {side}s counted from {first}; write it again"
            )
    column = Column(splits, np.repeat(np.arange(len(splits)), [len(pairs[split][0]) for split in splits]))
    return Source(
        Column(names[0], users),
        Column(names[1], items - first_item),
        column if len(splits) > 1 else None,
        user_ids=names[0],
        item_ids=names[1],
        copied=copied,
    )


def feature_paths(folder: Path) -> list[Path]:
    """The feature files in a folder."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(f"_feat{end}" for end in ENDS))
    )


def ids_of(column: Column) -> np.ndarray:
    """The id of each row of a Column, as integers if possible, otherwise as text."""
    return numbers_or_texts(column.texts)[column.codes] if column.texts else np.empty(0, np.int64)
