"""The layout of MMRec: one tab-separated file <name>.inter, and one .npy file per modality.

Columns: userID, itemID, and optionally x_label (0 training, 1 validation, 2 test), rating and timestamp. Without
x_label, the items of each user are split 8:1:1. Ids are indices: feature row r belongs to item r.
"""

from ...errors import InputError
from ..dataset import build
from ..features import FeatureFiles, catalogue_size
from ..ids import check_gaps, indices_of, note_counting_from_one
from ..interactions import read_interactions, splits_of

NAME = "mmrec"
NEEDS = "<name>.inter with columns userID, itemID and optionally x_label, separated by tabs"
LABELS = {"0": "train", "1": "val", "2": "test"}


def fits(folder):
    """Whether the folder contains a .inter file."""
    return any(folder.glob("*.inter"))


def read(folder, options):
    """Read the folder as a Dataset. Raises InputError if a file is invalid or there is more than one .inter file."""
    tables = [folder / options.interactions] if options.interactions else sorted(folder.glob("*.inter"))
    if len(tables) != 1:
        raise InputError(f"{folder}: has {len(tables)} .inter files; choose one with --interactions")
    path, notes = tables[0], []
    column = options.split_column if options.split_column != "split" else "x_label"
    table = read_interactions(path, "userID", "itemID", column, options, notes, separator="\t")
    users, items = indices_of(path, "userID", table["userID"]), indices_of(path, "itemID", table["itemID"])
    n_users = int(users.max(initial=-1)) + 1
    check_gaps(path, "users", n_users, users)
    files = FeatureFiles(folder, options.modalities)
    n_items = catalogue_size(files, path, items)
    for side, index in (("user", users), ("item", items)):
        note_counting_from_one(side, index, notes, side == "item" and bool(files.chosen))
    splits = splits_of(path, table, column, LABELS, users, items, options, notes)
    features = files.read(n_items, None, options, notes)
    return build(folder, NAME, (n_users, n_items), splits, features, notes=notes)
