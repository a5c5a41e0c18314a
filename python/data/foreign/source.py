"""Source: what the layouts of other projects are read into."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..dataset import SPLITS
from ..features import ENDS
from ..npy import npy_rows
from ..tables import Column, numbers_or_texts


@dataclass
class Source:
    """Interactions and what belongs to them, ids as texts.

    users, items, and splits where the source has them (train, val, test): Columns of the same rows. numbers: rating and
    timestamp, [n]. user_ids, item_ids: every id, in the order of the feature rows, None where only interactions name
    them. features: {modality: (Column of item ids, [n, d])}. copied: feature files that the plain layout reads as they
    are.
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


def of_dataset(data):
    """The Source of a Dataset."""
    pairs = [getattr(data, split).tocoo() for split in SPLITS]
    users, items = (np.concatenate([getattr(one, side) for one in pairs]).astype(np.int64) for side in ("row", "col"))
    user_ids, item_ids = (
        [str(one) for one in ids.tolist()]
        for ids in (data.original_users(np.arange(data.n_users)), data.original_items(np.arange(data.n_items)))
    )
    splits = Column(list(SPLITS), np.repeat(np.arange(3), [one.nnz for one in pairs]))
    everything = Column(item_ids, np.arange(data.n_items))
    features = {name: (everything, values) for name, values in data.features.items()}
    return Source(Column(user_ids, users), Column(item_ids, items), splits, {}, user_ids, item_ids, features)


def of_indices(folder, pairs, shape=None, first_item=0, ids=(None, None)):
    """The Source of {split: (users, items)}, int64 index pairs; items are counted from first_item.

    shape: (users, items), by default what the pairs and the folder's feature rows need. ids: texts by index of users
    and of items; without them the index is the id.
    """
    splits = [split for split in SPLITS if split in pairs]
    users, items = (np.concatenate([pairs[split][at] for split in splits]).astype(np.int64) for at in (0, 1))
    copied = feature_paths(folder)
    rows = [npy_rows(path) for path in copied if path.suffix == ".npy"]
    counts = list(shape) if shape else [users.max(initial=-1) + 1, max([items.max(initial=-1) + 1 - first_item, *rows])]
    names = [
        list(given) if given else [str(first + at) for at in range(count)]
        for given, count, first in zip(ids, counts, (0, first_item), strict=True)
    ]
    for what, index, first, known in (("user", users, 0, names[0]), ("item", items, first_item, names[1])):
        if len(index) and not (index.min() >= first and index.max() - first < len(known)):
            raise InputError(
                f"{folder}: names {what} {index.max() if index.max() - first >= len(known) else index.min()}, but has "
                f"{len(known)} {what}s counted from {first}; write it again"
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


def feature_paths(folder):
    """The folder's feature files."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and path.name.endswith(tuple(f"_feat{end}" for end in ENDS))
    )


def ids_of(column):
    """A Column's ids, row by row: integers where every one is written as one, else texts."""
    return numbers_or_texts(column.texts)[column.codes] if column.texts else np.empty(0, np.int64)
