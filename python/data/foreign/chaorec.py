"""The .npy files of MMGCN, GRCN and ChaoRec.

train.npy contains pairs (user, item). val.npy and test.npy contain one list [user, item, item, …] per user. The numbers
of the items follow those of the users.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ..npy import read_integers
from ..pickles import read_integer_lists
from .source import Source, of_indices

NAME = "chaorec"
TITLE = "the layout of MMGCN and ChaoRec"
FILES = {"train": "train.npy", "val": "val.npy", "test": "test.npy"}


def fits(folder: Path) -> bool:
    """Whether the folder contains train.npy, val.npy and test.npy."""
    return all((folder / name).is_file() for name in FILES.values())


def read(folder: Path) -> Source:
    """Read the folder as a Source. The numbers of the items are kept as ids; feature row 0 is the first item."""
    pairs = {"train": _columns(folder / FILES["train"], read_integers(folder / FILES["train"]))}
    for split in ("val", "test"):
        rows = read_integer_lists(folder / FILES[split])
        if not all(rows):
            raise InputError(f"{folder / FILES[split]}: entry {rows.index([])} is empty; it must start with the user")
        users = np.repeat(
            np.array([row[0] for row in rows], np.int64), np.array([len(row) - 1 for row in rows], np.int64)
        )
        pairs[split] = (users, np.array([item for row in rows for item in row[1:]], np.int64))
    users, items = (np.concatenate([pair[axis] for pair in pairs.values()]) for axis in (0, 1))
    count = int(users.max(initial=-1)) + 1
    first = count if items.min(initial=count) >= count else 0
    source = of_indices(folder, pairs, first_item=first)
    if first:
        source.notes.append(f"items are numbered from {first}, after the users; feature row 0 is item {first}")
    return source


def _columns(path: Path, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"{path}: has the shape {pairs.shape}; it must contain pairs (user, item)")
    return pairs[:, 0], pairs[:, 1]
