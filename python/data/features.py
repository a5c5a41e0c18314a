"""A folder's feature files, and which item each of their rows belongs to."""

import numpy as np

from ..errors import InputError, shown
from .ids import check_gaps
from .named_features import read_feature_ids, read_named_features
from .npy import npy_rows, read_features
from .tables import numbers_or_texts

ENDS = (".parquet", ".npz", ".safetensors", ".npy")


def feature_files(folder):
    """{modality: path} of the folder's <modality>_feat files: image, audio, text first, others after them by name.

    Raises InputError where a modality has two files.
    """
    found = {}
    for end in ENDS:
        for path in sorted(folder.glob(f"*_feat{end}")):
            modality = path.name.removesuffix(f"_feat{end}")
            if modality in found:
                raise InputError(f"{folder}: has both {found[modality].name} and {path.name}; keep one")
            if modality:
                found[modality] = path
    known = [modality for modality in ("image", "audio", "text") if modality in found]
    return {modality: found[modality] for modality in known + sorted(set(found) - set(known))}


class FeatureFiles:
    """A folder's feature files before the items are known: which there are, and which items they name.

    files: {modality: path}; chosen: the modalities that will be read. ordered: the first file without ids (.npy), whose
    rows belong to items by their order; rows: its number of rows. ids: {text: None} of the items that the other files
    name, in their order.
    """

    def __init__(self, folder, modalities=None):
        self.folder, self.files = folder, feature_files(folder)
        self.chosen = list(self.files) if modalities is None else list(modalities)
        for modality in self.chosen:
            if modality not in self.files:
                there = ", ".join(self.files) or "none"
                raise InputError(f"{folder}: has no {modality}_feat.npy or .parquet; modalities there: {there}")
        self.ordered = next((path for path in self.files.values() if path.suffix == ".npy"), None)
        self.rows = None if self.ordered is None else npy_rows(self.ordered)
        self.ids = {}
        for path in self.files.values():
            if path.suffix != ".npy":
                self.ids |= dict.fromkeys(read_feature_ids(path).texts)

    @property
    def rows_in_order(self):
        """The first chosen file whose rows belong to items by their order, None without one."""
        return next((self.files[m] for m in self.chosen if self.files[m].suffix == ".npy"), None)

    def read(self, n_items, item_ids, options, notes):
        """{modality: features [n_items, d]} of the chosen modalities.

        item_ids: [n_items], None where an item's id is its index. Files with ids give each item the row of its name;
        rows of other items are left out with a note. An item without a row is refused, or gets the mean of the others
        where options.missing_features says so. Notes which items the first rows of files without ids belong to.
        """
        features, places = {}, None
        for modality in self.chosen:
            path = self.files[modality]
            if path.suffix == ".npy":
                features[modality] = read_features(path, n_items)
                continue
            if places is None:
                names = range(n_items) if item_ids is None else item_ids.tolist()
                places = {str(name): at for at, name in enumerate(names)}
            column, values = read_named_features(path)
            features[modality] = _by_name(path, column, values, places, options, notes)
        if self.rows_in_order is not None and n_items:
            notes.append(_whose_rows(n_items, item_ids))
        return features


def catalogue_size(features, path, items):
    """Number of items where ids are indices: the rows of feature files without ids, or else the largest id + 1.

    features: FeatureFiles. items: int64 [n], the ids that `path` names. Raises InputError where one lies beyond the
    features, or where without features the ids leave absurd gaps.
    """
    named = int(items.max(initial=-1)) + 1
    if features.rows is not None:
        if named > features.rows:
            raise InputError(
                f"{features.ordered}: has {features.rows} rows, {path.name} names item {shown(named - 1)}; give one "
                "row for every item, row = item"
            )
        return features.rows
    texts = list(features.ids)
    ids = numbers_or_texts(texts)
    if len(ids) and (ids.dtype.kind != "i" or ids.min() < 0):
        other = next(text for text in texts if not text.isdigit())
        raise InputError(
            f"{features.folder}: a feature file names item {shown(other)}, {path.name} has indices counted from 0; "
            "mmssl-fast data convert makes a folder with ids"
        )
    every = np.concatenate([items, ids]) if len(ids) else items
    named = int(every.max(initial=-1)) + 1
    check_gaps(path, "items", named, every)
    return named


def _by_name(path, column, values, places, options, notes):
    """values' rows in the order of the items, by their ids."""
    place = np.array([places.get(text, -1) for text in column.texts], np.int64)[column.codes]
    known = np.flatnonzero(place >= 0)
    out = np.empty((len(places), values.shape[1]), values.dtype)
    out[place[known]] = values[known]
    missing = np.ones(len(places), bool)
    missing[place[known]] = False
    count = int(missing.sum())
    notes.append(f"{path.name}: rows given to items by their ids")
    if len(known) < len(place):
        left = len(place) - len(known)
        notes.append(f"{path.name}: {left} {'row is' if left == 1 else 'rows are'} of no item of the data and left out")
    if count:
        names = [name for name, at in places.items() if missing[at]][:5]
        listed = ", ".join(map(shown, names)) + (", …" if count > 5 else "")
        if options.missing_features != "mean" or not len(known):
            raise InputError(
                f"{path}: has no row for {count} of {len(places)} items ({listed}); add them, or give them the mean of "
                "the others with --missing-features mean"
            )
        out[missing] = values[known].mean(axis=0, dtype=np.float64)
        notes.append(
            f"{path.name}: {count} of {len(places)} items have no row ({listed}) and get the mean of the others"
        )
    return out


def _whose_rows(n_items, item_ids):
    name = str if item_ids is None else lambda at: shown(item_ids[at].item())
    rows = sorted({0, min(1, n_items - 1), n_items - 1})
    last = " (the last)"
    listed = [f"row {at}{last if at == n_items - 1 else ''} to item {name(at)}" for at in rows]
    return f"features: {', '.join(listed).replace(' to item', ' belongs to item', 1)}"
