"""MMRec's layout: one tab-separated <name>.inter and one .npy a modality.

The header names userID, itemID and x_label (0 train, 1 validation, 2 test); other columns are not read. Without x_label
every user's items are split 8:1:1 by the seed. Ids are indices: feature row r belongs to item r.
"""

from ...errors import InputError, shown
from ..dataset import build
from ..features import catalogue_size, read_modalities
from ..ids import check_gaps, indices_of
from ..split import split_and_note
from ..tables import read_table

NAME = "mmrec"
NEEDS = "<name>.inter with columns userID, itemID and optionally x_label, separated by tabs"
LABELS = {"train": "0", "val": "1", "test": "2"}


def fits(folder):
    """Whether there is a .inter file."""
    return any(folder.glob("*.inter"))


def read(folder, modalities=None, seed=0):
    """The folder as a Dataset. Raises InputError as the readers it calls, and for more than one .inter file."""
    tables = sorted(folder.glob("*.inter"))
    if len(tables) != 1:
        raise InputError(f"{folder}: has {len(tables)} .inter files; the MMRec layout has one")
    path = tables[0]
    table = read_table(path, ["userID", "itemID"], ["x_label"], separator="\t")
    users, items = indices_of(path, "userID", table["userID"]), indices_of(path, "itemID", table["itemID"])
    n_users = int(users.max(initial=-1)) + 1
    check_gaps(path, "users", n_users, users)
    n_items = catalogue_size(folder, path, items)
    notes = []
    if "x_label" in table:
        splits = _labelled(path, table["x_label"], users, items)
    else:
        splits = split_and_note(users, items, seed, notes)
    features = read_modalities(folder, modalities, n_items)
    return build(folder, NAME, (n_users, n_items), splits, features, notes=notes)


def _labelled(path, column, users, items):
    for code, text in enumerate(column.texts):
        if text not in LABELS.values():
            raise InputError(
                f"{path}: row {column.row_of(code)} has x_label {shown(text)}; it is 0 (train), 1 (validation) or 2 "
                "(test)"
            )
    splits = {}
    for split, label in LABELS.items():
        chosen = column.codes == (column.texts.index(label) if label in column.texts else -1)
        splits[split] = (users[chosen], items[chosen])
    return splits
