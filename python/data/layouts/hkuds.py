"""The layout of LATTICE and the HKUDS repositories: three JSON files, optionally a pickled matrix, one .npy a modality.

train.json, val.json, test.json: {"user": [items]}, ids are indices. train_mat or train_mat.pkl: SciPy CSR users x
items, from which only the shape is taken (train.json holds the pairs; a matrix with other pairs is noted).
*_feat.npy: row = item. With neither val.json nor test.json every user's items are split 8:1:1 by the seed.
"""

import json

import numpy as np

from ...errors import InputError, shown
from ..dataset import build, distinct
from ..features import FeatureFiles, catalogue_size
from ..files import read_bytes
from ..ids import check_gaps, note_counting_from_one
from ..options import TABLE_OPTIONS
from ..pickles import read_sparse_pickle
from ..split import split_and_note

NAME = "hkuds"
NEEDS = "train.json, val.json, test.json"
FILES = {"train": "train.json", "val": "val.json", "test": "test.json"}


class JsonObject(list):
    """A JSON object as its (key, value) pairs, so that a key that occurs twice is seen."""


def fits(folder):
    """Whether there is a train.json."""
    return (folder / FILES["train"]).exists()


def read(folder, options):
    """The folder as a Dataset. Raises InputError as the readers it calls, naming the user a wrong entry belongs to."""
    notes, splits = [], {}
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


def read_pairs(path):
    """(users, items), int64 [n], of a file {"user": [items]}; raises InputError for anything else, naming the user."""
    content = read_bytes(path)
    try:
        entries = json.loads(content.decode("utf-8-sig"), object_pairs_hook=JsonObject, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not readable JSON ({shown(str(error), 120)}); expected {{user: [items]}}"
        ) from None
    if not isinstance(entries, JsonObject):
        raise InputError(f"{path}: does not hold an object {{user: [items]}}; write it as one")
    users, counts, items, seen = [], [], [], set()
    for key, listed in entries:
        user = int(key) if key.isascii() and key.isdigit() and len(key) < 19 else -1
        if user < 0:
            raise InputError(
                f"{path}: user {shown(key)} is no index counted from 0; use the plain layout for other ids"
            )
        if user in seen:
            raise InputError(f"{path}: user {user} occurs twice; merge the two lists")
        seen.add(user)
        if type(listed) is not list:
            raise InputError(f"{path}: user {user} has {shown(listed)} where a list of items belongs")
        for item in listed:
            if type(item) is not int or not 0 <= item < 2**31 - 1:
                raise InputError(f"{path}: user {user} has the item {shown(item)}; items are indices counted from 0")
        users.append(user)
        counts.append(len(listed))
        items.extend(listed)
    return np.repeat(np.array(users, np.int64), np.array(counts, np.int64)), np.array(items, np.int64)


def _shape(folder, files, users, items, train, notes):
    """(n_users, n_items): what train_mat declares, else the largest ids and the feature rows."""
    named_users, named_items = (int(side.max(initial=-1)) + 1 for side in (users, items))
    matrix = next((folder / name for name in ("train_mat", "train_mat.pkl") if (folder / name).exists()), None)
    if matrix is None:
        check_gaps(folder / FILES["train"], "users", named_users, users)
        return named_users, catalogue_size(files, folder / FILES["train"], items)
    pairs = read_sparse_pickle(matrix)
    for what, side, named in (("user", pairs.shape[0], named_users), ("item", pairs.shape[1], named_items)):
        if named > side:
            raise InputError(
                f"{matrix}: has {side} {what}s, the JSON files name {what} {named - 1}; write the matrix with all "
                "of them"
            )
    check_gaps(matrix, "users", pairs.shape[0], users)
    check_gaps(matrix, "items", pairs.shape[1], items)
    stored = pairs.values != 0
    keys = distinct(pairs.rows[stored] * pairs.shape[1] + pairs.columns[stored])
    own = distinct(train[0] * pairs.shape[1] + train[1])
    if not np.array_equal(keys, own):
        notes.append(
            f"{matrix.name} and train.json hold different pairs ({len(keys)} and {len(own)}); train.json is used"
        )
    return pairs.shape


def _no_constant(name):
    raise ValueError(f"{name} is no item")
