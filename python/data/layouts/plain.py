"""The plain layout: a table of interactions with the user's own ids, and one .npy a modality.

interactions.parquet or interactions.csv: columns user, item and optionally split (train, val or test); other columns
are not read. Ids are integers or text: they count as integers when every one is written as one (so 7 and 007 are
texts). Without split every user's items are split 8:1:1 by the seed.

<modality>_feat.npy: one row for each item. Which row is whose:
  items.csv or items.parquet (column item) is there: row r belongs to the r-th item listed, and every item is listed;
  no list, integer ids: row r belongs to item r;
  no list, text ids: row r belongs to the r-th distinct id of the interactions in ascending code-point order, and
  there are exactly as many rows as ids; refused where the ids are numbers (1.0, 10.0, 2.0) that this order shuffles.
Whatever fits none of these is refused. users.csv or users.parquet (column user) may list users too, then they are
numbered in that order and may lack interactions; without it users are numbered by ascending id.
"""

import numpy as np

from ...errors import InputError, shown
from ..dataset import SPLITS, build
from ..features import feature_rows, read_modalities
from ..ids import listed_ids, places_in, sorted_ids
from ..split import split_and_note
from ..tables import read_table

NAME = "plain"
NEEDS = "interactions.csv or interactions.parquet with columns user, item and optionally split"
_ENDS = (".parquet", ".csv")


def fits(folder):
    """Whether there is an interactions table."""
    return any((folder / f"interactions{end}").exists() for end in _ENDS)


def read(folder, modalities=None, seed=0):
    """The folder as a Dataset, original ids kept. Raises InputError as the readers it calls."""
    path = _table(folder, "interactions")
    if path is None:
        raise InputError(f"{folder}: has no interactions.csv or interactions.parquet; the plain layout needs one")
    table = read_table(path, ["user", "item"], ["split"])
    user_ids, users = _users(folder, path, table["user"])
    item_ids, n_items, items = _items(folder, path, table["item"])
    notes = []
    if "split" in table:
        splits = _given(path, table["split"], users, items)
    else:
        splits = split_and_note(users, items, seed, notes)
    features = read_modalities(folder, modalities, n_items)
    return build(folder, NAME, (len(user_ids), n_items), splits, features, user_ids, item_ids, notes)


def _users(folder, path, column):
    listing = _table(folder, "users")
    if listing is None:
        return sorted_ids(column)
    ids, places = listed_ids(listing, "user", read_table(listing, ["user"])["user"])
    return ids, places_in(path, "user", column, places, listing)


def _items(folder, path, column):
    """(ids or None, number of items, index of each row's item)."""
    listing, rows = _table(folder, "items"), feature_rows(folder)
    if listing is not None:
        ids, places = listed_ids(listing, "item", read_table(listing, ["item"])["item"])
        return ids, len(ids), places_in(path, "item", column, places, listing)
    ids, index = sorted_ids(column)
    if rows is None:
        return ids, len(ids), index
    if ids.dtype.kind == "i":
        for code, text in enumerate(column.texts):
            if not 0 <= int(text) < rows:
                raise InputError(
                    f"{path}: row {column.row_of(code)} has item {shown(text)}, the features have rows 0..{rows - 1}; "
                    "integer ids name rows, or list the ids in row order in items.csv"
                )
        return None, rows, ids[index]
    if _misordered(ids):
        raise InputError(
            f"{path}: row 1 has item {shown(column.texts[0])}, a number in a spelling whose order is not that of its "
            "value; write such ids as integers (0, 1, 2), or list them in row order in items.csv"
        )
    if len(ids) != rows:
        raise InputError(
            f"{path}: names {len(ids)} items by text, the features have {rows} rows; list the ids in row order in "
            "items.csv"
        )
    return ids, rows, index


def _misordered(ids):
    """Whether sorted texts are all numbers (1.0, 1e1, " 2") that do not ascend: features would go to other items."""
    try:
        return bool((np.diff([float(text) for text in ids.tolist()]) < 0).any())
    except ValueError:
        return False


def _given(path, column, users, items):
    for code, text in enumerate(column.texts):
        if text not in SPLITS:
            raise InputError(f"{path}: row {column.row_of(code)} has split {shown(text)}; it is train, val or test")
    splits = {}
    for split in SPLITS:
        chosen = column.codes == (column.texts.index(split) if split in column.texts else -1)
        splits[split] = (users[chosen], items[chosen])
    return splits


def _table(folder, stem):
    """The folder's <stem>.parquet or <stem>.csv, None without either; raises InputError with both."""
    there = [folder / f"{stem}{end}" for end in _ENDS if (folder / f"{stem}{end}").exists()]
    if len(there) == 2:
        raise InputError(f"{folder}: has both {stem}.parquet and {stem}.csv; keep one")
    return there[0] if there else None
