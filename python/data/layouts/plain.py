"""The plain layout: a table of interactions with the user's own ids, and one feature file a modality.

interactions.parquet, .csv, .tsv, .csv.gz or .tsv.gz, or a folder of such parts under that name or as the data folder
itself: columns user, item and optionally split (train, val or test), rating and timestamp, which the options min_rating
and split read; other columns are named in a note. Ids are integers or text: they count as integers when every one is
written as one (so 7 and 007 are texts). Without split every user's items are split 8:1:1 by the seed.

Features: <modality>_feat.parquet, .npz or .safetensors with the items' ids beside them, in any order (see
named_features), or <modality>_feat.npy with one row for each item. Which row of a .npy file is whose:
  items.csv or items.parquet (column item) is there: row r belongs to the r-th item listed, and every item is listed;
  no list, integer ids: row r belongs to item r;
  no list, text ids: refused, since text has no order that features follow.
users.csv or users.parquet (column user) may list users too, then they are numbered in that order and may lack
interactions; without it users are numbered by ascending id, as are items without a list or .npy file.
"""

from ...errors import InputError, shown
from ..dataset import build
from ..features import FeatureFiles
from ..files import TABLE_ENDS, is_partitioned
from ..ids import listed_ids, note_counting_from_one, places_in, sorted_ids
from ..interactions import read_interactions, splits_of, unread
from ..tables import numbers_or_texts, read_table

NAME = "plain"
NEEDS = "interactions.csv or interactions.parquet with columns user, item and optionally split"
LABELS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def fits(folder):
    """Whether there is an interactions table, or the folder is one in parts."""
    return any((folder / f"interactions{end}").exists() for end in TABLE_ENDS) or is_partitioned(folder)


def read(folder, options):
    """The folder as a Dataset, original ids kept. Raises InputError as the readers it calls."""
    if options.interactions:
        path = folder / options.interactions
        if not path.exists():
            raise InputError(f"{path}: no such file; --interactions names a table as seen from {folder}")
    else:
        path = find_table(folder, "interactions") or (folder if is_partitioned(folder) else None)
    if path is None:
        raise InputError(f"{folder}: has no interactions.csv or interactions.parquet; the plain layout needs one")
    notes = []
    table = read_interactions(path, "user", "item", options.split_column, options, notes)
    user_ids, users = _users(folder, path, table["user"], notes)
    files = FeatureFiles(folder, options.modalities)
    item_ids, n_items, items = _items(folder, path, table["item"], files, notes)
    splits = splits_of(path, table, options.split_column, LABELS, users, items, options, notes)
    features = files.read(n_items, item_ids, options, notes)
    return build(folder, NAME, (len(user_ids), n_items), splits, features, user_ids, item_ids, notes)


def find_table(folder, stem):
    """The folder's <stem>.parquet, .csv and so on, None without one; raises InputError with several."""
    there = [folder / f"{stem}{end}" for end in TABLE_ENDS if (folder / f"{stem}{end}").exists()]
    if len(there) > 1:
        raise InputError(f"{folder}: has both {there[0].name} and {there[1].name}; keep one")
    return there[0] if there else None


def _listed(path, name, notes):
    table = read_table(path, [name])
    if table.unread:
        notes.append(unread(path, table.unread))
    return listed_ids(path, name, table[name])


def _users(folder, path, column, notes):
    listing = find_table(folder, "users")
    if listing is None:
        return sorted_ids(column)
    ids, places = _listed(listing, "user", notes)
    return ids, places_in(path, "user", column, places, listing)


def _items(folder, path, column, files, notes):
    """(ids or None, number of items, index of each row's item)."""
    listing, ordered = find_table(folder, "items"), files.rows_in_order
    if listing is not None:
        ids, places = _listed(listing, "item", notes)
        return ids, len(ids), places_in(path, "item", column, places, listing)
    if files.rows is not None:
        values = numbers_or_texts(column.texts)
        if values.dtype.kind == "i" and (not len(values) or (0 <= values.min() and values.max() < files.rows)):
            items = values[column.codes]
            note_counting_from_one("item", items, notes, bool(files.chosen))
            return None, files.rows, items
        if ordered is not None:
            _refuse_order(path, column, values, ordered, files.rows)
    ids, index = sorted_ids(column, files.ids)
    return ids, len(ids), index


def _refuse_order(path, column, values, ordered, rows):
    """Raises InputError: nothing says which row of a .npy file is whose."""
    if values.dtype.kind == "i":
        from_one = " and count from 0: subtract 1 from yours" if values.min() == 1 and values.max() == rows else ""
        for code, text in enumerate(column.texts):
            if not 0 <= int(text) < rows:
                raise InputError(
                    f"{path}: row {column.row_of(code)} has item {shown(text)}, {ordered.name} has rows 0..{rows - 1}; "
                    f"integer ids name rows{from_one}, or list the ids in row order in items.csv"
                )
        return
    raise InputError(
        f"{path}: row 1 has item {shown(column.texts[0])}, and nothing says which of the {rows} rows of {ordered.name} "
        "is its: put an items.csv beside it, with the column item and the ids in the order in which the features were "
        "made: pandas.DataFrame({'item': ids}).to_csv('items.csv', index=False)"
    )
