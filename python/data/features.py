"""The feature files of a folder, and the assignment of their rows to items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from .arrow import Column, numbers_or_texts
from .ids import check_gaps
from .named_features import read_feature_ids, read_named_features
from .npy import npy_rows, read_features
from .options import LoadOptions

ENDS = (".parquet", ".npz", ".safetensors", ".npy")


def feature_files(folder: Path) -> dict[str, Path]:
    """{modality: path} of the <modality>_feat files of a folder: image, audio and text first, then the others by name.

    Raises InputError if a modality has two files.
    """
    paths: dict[str, Path] = {}
    for end in ENDS:
        for path in sorted(folder.glob(f"*_feat{end}")):
            modality = path.name.removesuffix(f"_feat{end}")
            if modality in paths:
                raise InputError(f"{folder}: has both {paths[modality].name} and {path.name}; keep only one")
            if modality:
                paths[modality] = path
    common = [modality for modality in ("image", "audio", "text") if modality in paths]
    return {modality: paths[modality] for modality in common + sorted(set(paths) - set(common))}


class FeatureFiles:
    """The feature files of a folder, before the items are known.

    files: {modality: path}. chosen: modalities to read. without_ids: the first file without ids (.npy), whose rows
    belong to the items in order. rows: its number of rows. ids: item ids of the other files, as the keys of a dict in
    their order.
    """

    def __init__(self, folder: Path, modalities: Sequence[str] | None = None) -> None:
        self.folder, self.files = folder, feature_files(folder)
        self.chosen = list(self.files) if modalities is None else list(modalities)
        for modality in self.chosen:
            if modality not in self.files:
                names = ", ".join(self.files) or "none"
                raise InputError(f"{folder}: has no feature file {modality}_feat.*; its modalities are: {names}")
        self.without_ids = next((path for path in self.files.values() if path.suffix == ".npy"), None)
        self.rows = None if self.without_ids is None else npy_rows(self.without_ids)
        self.ids: dict[str, None] = {}
        for path in self.files.values():
            if path.suffix != ".npy":
                self.ids |= dict.fromkeys(read_feature_ids(path).texts)

    @property
    def chosen_without_ids(self) -> Path | None:
        """The first chosen file without ids, or None."""
        return next((self.files[m] for m in self.chosen if self.files[m].suffix == ".npy"), None)

    def read(
        self,
        n_items: int,
        item_ids: np.ndarray | None,
        options: LoadOptions,
        notes: list[str],
        rows: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """{modality: features [n_items, d]} of the chosen modalities.

        item_ids: original ids [n_items]; None if they are the indices. rows: int64 [n], the numbers of the items that
        are left of n_items; item_ids and the result are for these [n]. In files with ids, each item gets the row with
        its id, and rows of unknown items are ignored. An item without a row is refused, gets the mean of the other
        rows, or a missing row, depending on options.missing_features. A missing row is NaN; with "mean" there is none.
        Appends to `notes`.
        """
        features, index = {}, None
        for modality in self.chosen:
            path = self.files[modality]
            if path.suffix == ".npy":
                values = read_features(path, n_items)
                values = values if rows is None else values[rows]
                features[modality] = marked_missing(path, values, options, notes)
                continue
            if index is None:
                ids = range(n_items) if item_ids is None else item_ids.tolist()
                index = {str(item): i for i, item in enumerate(ids)}
            column, values = read_named_features(path)
            values = _by_id(path, column, values, index, options, notes)
            features[modality] = marked_missing(path, values, options, notes)
        if self.chosen_without_ids is not None and n_items:
            notes.append(rows_of_items(n_items, item_ids, rows))
        notes.extend(
            f"{path.name} is not read; write the features as .parquet, .npz, .safetensors or .npy"
            for path in sorted(self.folder.glob("?*_feat.*"))
            if path.stem.endswith("_feat") and path.suffix not in ENDS
        )
        return features


def catalogue_size(features: FeatureFiles, path: Path, items: np.ndarray) -> int:
    """The number of items if ids are indices: the number of rows of a feature file without ids, or the largest id + 1.

    features: FeatureFiles. items: int64 [n], the ids in the file `path`. Raises InputError if an id has no feature row,
    or, without such a feature file, if the ids have implausibly large gaps.
    """
    count = int(items.max(initial=-1)) + 1
    if features.rows is not None:
        if count > features.rows:
            raise InputError(
                f"{features.without_ids}: has {features.rows} rows, but {path.name} contains item {shown(count - 1)}; "
                "it needs one row per item, row = item"
            )
        return features.rows
    texts = list(features.ids)
    ids = numbers_or_texts(texts)
    if len(ids) and (ids.dtype.kind != "i" or ids.min() < 0):
        text_id = next(text for text in texts if not text.isdigit())
        raise InputError(
            f"{features.folder}: a feature file contains item {shown(text_id)}, but {path.name} has indices from 0; "
            "mmssl-fast data convert creates a folder with ids"
        )
    indices = np.concatenate([items, ids]) if len(ids) else items
    count = int(indices.max(initial=-1)) + 1
    check_gaps(path, "items", count, indices)
    return count


def _by_id(
    path: Path, column: Column, values: np.ndarray, index: dict[str, int], options: LoadOptions, notes: list[str]
) -> np.ndarray:
    """The rows of `values` in the order of the items. index: {item id: index}."""
    items = np.array([index.get(text, -1) for text in column.texts], np.int64)[column.codes]
    rows = np.flatnonzero(items >= 0)
    result = np.full((len(index), values.shape[1]), np.nan, values.dtype)
    result[items[rows]] = values[rows]
    missing = np.ones(len(index), bool)
    missing[items[rows]] = False
    notes.append(f"{path.name}: rows are assigned to items by id")
    if n_unknown := len(items) - len(rows):
        notes.append(f"{path.name}: {n_unknown} {'row' if n_unknown == 1 else 'rows'} of unknown items ignored")
    if n_missing := int(missing.sum()):
        ids = [item for item, i in index.items() if missing[i]][:5]
        examples = ", ".join(map(shown, ids)) + (", …" if n_missing > 5 else "")
        if options.missing_features == "refuse" or not len(rows):
            raise InputError(
                f"{path}: has no row for {n_missing} of {len(index)} items ({examples}); add the rows, or train "
                "without them (--missing-features mask), or with the mean of the others (--missing-features mean)"
            )
        notes.append(f"{path.name}: {n_missing} of {len(index)} items have no row ({examples})")
    return result


def missing_rows(values: np.ndarray) -> np.ndarray:
    """bool [n] of features [n, d]: the missing rows, which are NaN."""
    return np.isnan(values[:, 0])


def marked_missing(path: Path, values: np.ndarray, options: LoadOptions, notes: list[str]) -> np.ndarray:
    """The features, with "mean" changed in place as options.missing_features says, and a note about missing rows.

    Raises InputError if every row is missing.
    """
    missing = missing_rows(values)
    if not (count := int(missing.sum())):
        return values
    if count == len(values):
        raise InputError(f"{path}: no item has features; add them or remove the file")
    effect = "the model leaves this modality out for them"
    if options.missing_features == "mean":
        effect = "they get the mean of the others"
        values[missing] = values[~missing].mean(axis=0, dtype=np.float64)
    notes.append(f"{path.name}: {count} of {len(values)} items have no features; {effect}")
    return values


def rows_of_items(n_items: int, item_ids: np.ndarray | None, rows: np.ndarray | None = None) -> str:
    """A note on the items of rows 0, 1 and the last, by which the user can check the order of a file without ids."""
    rows = np.arange(n_items) if rows is None else rows
    places = sorted({0, min(1, len(rows) - 1), len(rows) - 1})
    ids = [str(rows[place]) if item_ids is None else shown(item_ids[place].item()) for place in places]
    return "features: " + ", ".join(
        f"row {rows[place]} is item {item}" for place, item in zip(places, ids, strict=True)
    )
