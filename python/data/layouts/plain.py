"""The plain layout: an interaction table with any ids, and one feature file per modality. See docs/data.md.

Interactions: interactions.parquet, .csv, .tsv, .csv.gz or .tsv.gz, or a folder with parts of such a table. Columns:
user, item, and optionally split, rating and timestamp. Ids are integers or text. They count as integers only if all of
them are canonical integers: 7 and 007 in one column are text.

Features: <modality>_feat.parquet, .npz or .safetensors with item ids, in any order (see named_features), or
<modality>_feat.npy with one row per item. The rows of a .npy file belong to the items as follows:
  with items.csv or items.parquet (column item), row r belongs to the r-th item in this list;
  without a list and with integer ids, row r belongs to item r;
  without a list and with text ids, the file is refused, because the order of the rows is not known.

Users and items are numbered in the order of users.csv and items.csv. Without these lists they are numbered by ascending
id, and items with a .npy file by their id.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError, shown
from ..arrow import Column, numbers_or_texts
from ..core import only_used
from ..dataset import Dataset, build
from ..features import FeatureFiles
from ..files import TABLE_ENDS, is_partitioned
from ..ids import indices_in_list, listed_ids, note_counting_from_one, sorted_ids
from ..interactions import note_catalogue, read_interactions, splits_of, unread, weights_of
from ..options import LoadOptions
from ..tables import read_table

NAME = "plain"
NEEDS = "interactions.csv or interactions.parquet with columns user, item and optionally split"
LABELS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def fits(folder: Path) -> bool:
    """Whether the folder contains an interaction table, or is one in parts."""
    return any((folder / f"interactions{end}").exists() for end in TABLE_ENDS) or is_partitioned(folder)


def read(folder: Path, options: LoadOptions) -> Dataset:
    """Read the folder as a Dataset with its original ids. Raises InputError if a file is invalid."""
    path: Path | None
    if options.interactions:
        path = folder / options.interactions
        if not path.exists():
            raise InputError(f"{path}: no such file; give --interactions relative to {folder}")
    else:
        path = find_table(folder, "interactions") or (folder if is_partitioned(folder) else None)
    if path is None:
        raise InputError(f"{folder}: has no interactions.csv or interactions.parquet, which the plain layout needs")
    notes: list[str] = []
    table = read_interactions(path, options.user_column, options.item_column, options.split_column, options, notes)
    user_ids, users = _users(folder, path, table[options.user_column], notes)
    files = FeatureFiles(folder, options.modalities)
    item_ids, n_items, items = _items(folder, path, table[options.item_column], files, notes)
    rows = None
    if options.min_interactions > 1:
        users, user_ids, _ = only_used(users, user_ids)
        items, item_ids, rows = only_used(items, item_ids)
        note_catalogue(n_items - len(rows), n_items, notes)
    splits = splits_of(path, table, options.split_column, LABELS, users, items, options, notes)
    weights = weights_of(table, options.split_column, LABELS, users, items, options)
    features = files.read(n_items, item_ids, options, notes, rows)
    shape = len(user_ids), n_items if rows is None else len(rows)
    return build(folder, NAME, shape, splits, features, user_ids, item_ids, notes, weights)


def find_table(folder: Path, stem: str) -> Path | None:
    """The path of <stem>.parquet, .csv and so on, or None. Raises InputError if there are several."""
    paths = [folder / f"{stem}{end}" for end in TABLE_ENDS if (folder / f"{stem}{end}").exists()]
    if len(paths) > 1:
        raise InputError(f"{folder}: has both {paths[0].name} and {paths[1].name}; keep only one")
    return paths[0] if paths else None


def listed(path: Path, name: str, notes: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    """(ids, {text: index}) of the list of users or items."""
    table = read_table(path, [name])
    if table.unread:
        notes.append(unread(path, table.unread))
    return listed_ids(path, name, table[name])


def _users(folder: Path, path: Path, column: Column, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, index of the user in each row)."""
    list_path = find_table(folder, "users")
    if list_path is None:
        return sorted_ids(column)
    ids, index = listed(list_path, "user", notes)
    return ids, indices_in_list(path, "user", column, index, list_path)


def _items(
    folder: Path, path: Path, column: Column, files: FeatureFiles, notes: list[str]
) -> tuple[np.ndarray | None, int, np.ndarray]:
    """(ids or None, number of items, index of the item in each row)."""
    list_path, npy_path = find_table(folder, "items"), files.chosen_without_ids
    if list_path is not None:
        ids, index = listed(list_path, "item", notes)
        return ids, len(ids), indices_in_list(path, "item", column, index, list_path)
    if files.rows is not None:
        values = numbers_or_texts(column.texts)
        if values.dtype.kind == "i" and (not len(values) or (0 <= values.min() and values.max() < files.rows)):
            items = values[column.codes]
            note_counting_from_one("item", items, notes, bool(files.chosen))
            return None, files.rows, items
        if npy_path is not None:
            refuse_unknown_order(path, column, values, npy_path, files.rows)
    ids, items = sorted_ids(column, files.ids)
    return ids, len(ids), items


def refuse_unknown_order(path: Path, column: Column, values: np.ndarray, npy_path: Path, rows: int) -> None:
    """Raise InputError, because the items of the rows of a .npy file are not known."""
    if values.dtype.kind == "i":
        advice = "subtract 1 from the ids" if values.min() == 1 and values.max() == rows else "add the missing rows"
        for code, text in enumerate(column.texts):
            if not 0 <= int(text) < rows:
                raise InputError(
                    f"{path}: row {column.row_of(code)} has item {shown(text)}, but {npy_path.name} has the rows 0 to "
                    f"{rows - 1}, and row r belongs to item r; {advice}, or list the items of the rows in items.csv"
                )
        return
    raise InputError(
        f"{path}: row 1 has item {shown(column.texts[0])}, but the items of the {rows} rows of {npy_path.name} are not "
        "known. Add items.csv with a column item that has the ids in the order of the feature rows: "
        "pandas.DataFrame({'item': ids}).to_csv('items.csv', index=False)"
    )
