"""The layout of MMRec: one tab-separated file <name>.inter, and one .npy file per modality.

Columns: userID, itemID, and optionally x_label (0 training, 1 validation, 2 test), rating and timestamp. Without
x_label, the items of each user are split 8:1:1. Ids are indices: feature row r belongs to item r.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from ..core import only_used
from ..dataset import Dataset, build
from ..features import FeatureFiles, catalogue_size
from ..ids import check_gaps, indices_of, note_counting_from_one
from ..interactions import note_catalogue, read_interactions, splits_of, weights_of
from ..options import LoadOptions

NAME = "mmrec"
NEEDS = "<name>.inter with columns userID, itemID and optionally x_label, separated by tabs"
LABELS = {"0": "train", "1": "val", "2": "test"}


def fits(folder: Path) -> bool:
    """Whether the folder contains a .inter file."""
    return any(folder.glob("*.inter"))


def read(folder: Path, options: LoadOptions) -> Dataset:
    """Read the folder as a Dataset. Raises InputError if a file is invalid or there is more than one .inter file."""
    tables = [folder / options.interactions] if options.interactions else sorted(folder.glob("*.inter"))
    if len(tables) != 1:
        raise InputError(f"{folder}: has {len(tables)} .inter files; choose one with --interactions")
    notes: list[str] = []
    path = tables[0]
    column = options.split_column if options.split_column != "split" else "x_label"
    user = options.user_column if options.user_column != "user" else "userID"
    item = options.item_column if options.item_column != "item" else "itemID"
    table = read_interactions(path, user, item, column, options, notes, separator="\t")
    users, items = indices_of(path, user, table[user]), indices_of(path, item, table[item])
    n_users = int(users.max(initial=-1)) + 1
    check_gaps(path, "users", n_users, users)
    files = FeatureFiles(folder, options.modalities)
    n_items = catalogue_size(files, path, items)
    for side, index in (("user", users), ("item", items)):
        note_counting_from_one(side, index, notes, side == "item" and bool(files.chosen))
    user_ids = item_ids = rows = None
    if options.min_interactions > 1:
        users, user_ids, _ = only_used(users, None)
        items, item_ids, rows = only_used(items, None)
        note_catalogue(n_items - len(rows), n_items, notes)
        n_users = len(user_ids)
    splits = splits_of(path, table, column, LABELS, users, items, options, notes)
    weights = weights_of(table, column, LABELS, users, items, options)
    features = files.read(n_items, item_ids, options, notes, rows)
    shape = n_users, n_items if rows is None else len(rows)
    return build(folder, NAME, shape, splits, features, user_ids, item_ids, notes, weights)
