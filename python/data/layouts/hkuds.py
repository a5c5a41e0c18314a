"""The layout of LATTICE and the HKUDS repositories: JSON files, an optional matrix, and one .npy file per modality.

train.json, val.json, test.json: {"user": [items]}; ids are indices. Without val.json and test.json, the items of each
user are split 8:1:1. train_mat or train_mat.pkl: pickled SciPy matrix, of which only the shape is used; a note reports
if its entries differ from train.json. *_feat.npy: row = item.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...errors import InputError, shown
from ..dataset import Dataset, Splits, build, distinct
from ..features import FeatureFiles, catalogue_size
from ..files import read_bytes
from ..ids import check_gaps, note_counting_from_one
from ..options import TABLE_OPTIONS, LoadOptions
from ..pickles import read_sparse_pickle
from ..split import split_and_note

NAME = "hkuds"
NEEDS = "train.json, val.json, test.json"
FILES = {"train": "train.json", "val": "val.json", "test": "test.json"}


class JsonObject(list[tuple[str, Any]]):
    """A JSON object as a list of (key, value) pairs, in which duplicate keys can be detected."""


def fits(folder: Path) -> bool:
    """Whether the folder contains train.json."""
    return (folder / FILES["train"]).exists()


def read(folder: Path, options: LoadOptions) -> Dataset:
    """Read the folder as a Dataset. Raises InputError if a file is invalid."""
    notes: list[str] = []
    splits: Splits = {}
    split_given = any((folder / FILES[split]).exists() for split in ("val", "test"))
    for split, file in FILES.items():
        if split == "train" or split_given:
            splits[split] = read_pairs(folder / file)
    options.refuse(folder, NAME, set(TABLE_OPTIONS) - (set() if split_given else {"split_share"}))
    users, items = (np.concatenate([side[axis] for side in splits.values()]) for axis in (0, 1))
    files = FeatureFiles(folder, options.modalities)
    n_users, n_items = _shape(folder, files, users, items, splits["train"], notes)
    for side, index in (("user", users), ("item", items)):
        note_counting_from_one(side, index, notes, side == "item" and bool(files.chosen))
    if not split_given:
        splits = split_and_note(folder / FILES["train"], users, items, options, notes)
    features = files.read(n_items, None, options, notes)
    return build(folder, NAME, (n_users, n_items), splits, features, notes=notes)


def read_pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(users, items), int64 [n], from a file {"user": [items]}. Raises InputError, with the user, if it is invalid."""
    content = read_bytes(path)
    try:
        entries = json.loads(content.decode("utf-8-sig"), object_pairs_hook=JsonObject, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not readable JSON ({shown(str(error), 120)}); expected {{user: [items]}}"
        ) from None
    if not isinstance(entries, JsonObject):
        raise InputError(f"{path}: does not contain an object {{user: [items]}}")
    users, counts, items, seen = [], [], [], set()
    for key, listed in entries:
        user = int(key) if key.isascii() and key.isdigit() and len(key) < 19 else -1
        if user < 0:
            raise InputError(
                f"{path}: user {shown(key)} is not an index counted from 0; use the plain layout for other ids"
            )
        if user in seen:
            raise InputError(f"{path}: user {user} occurs twice; merge the two lists")
        seen.add(user)
        if type(listed) is not list:
            raise InputError(f"{path}: user {user} has {shown(listed)} instead of a list of items")
        for item in listed:
            if type(item) is not int or not 0 <= item < 2**31 - 1:
                raise InputError(
                    f"{path}: user {user} has the item {shown(item)}; items must be indices counted from 0"
                )
        users.append(user)
        counts.append(len(listed))
        items.extend(listed)
    return np.repeat(np.array(users, np.int64), np.array(counts, np.int64)), np.array(items, np.int64)


def _shape(
    folder: Path,
    files: FeatureFiles,
    users: np.ndarray,
    items: np.ndarray,
    train: tuple[np.ndarray, np.ndarray],
    notes: list[str],
) -> tuple[int, int]:
    """(n_users, n_items) from train_mat, or else from the largest ids and the feature files."""
    count_users, count_items = (int(side.max(initial=-1)) + 1 for side in (users, items))
    matrix = next((folder / name for name in ("train_mat", "train_mat.pkl") if (folder / name).exists()), None)
    if matrix is None:
        check_gaps(folder / FILES["train"], "users", count_users, users)
        return count_users, catalogue_size(files, folder / FILES["train"], items)
    pairs = read_sparse_pickle(matrix)
    for side, size, count in (("user", pairs.shape[0], count_users), ("item", pairs.shape[1], count_items)):
        if count > size:
            raise InputError(
                f"{matrix}: has {size} {side}s, but the JSON files contain {side} {count - 1}; write a matrix of all "
                f"{side}s"
            )
    check_gaps(matrix, "users", pairs.shape[0], users)
    check_gaps(matrix, "items", pairs.shape[1], items)
    stored = pairs.values != 0
    keys = distinct(pairs.rows[stored] * pairs.shape[1] + pairs.columns[stored])
    train_keys = distinct(train[0] * pairs.shape[1] + train[1])
    if not np.array_equal(keys, train_keys):
        notes.append(
            f"{matrix.name} and train.json have different interactions ({len(keys)} and {len(train_keys)}); train.json "
            "is used"
        )
    return pairs.shape


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not an item")
