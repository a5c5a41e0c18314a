"""The layout published with DiffMM: three pickled SciPy matrices, and one .npy file per modality.

trnMat.pkl, valMat.pkl, tstMat.pkl: sparse users x items matrices of the same shape, with one entry per interaction.
image_feat.npy, audio_feat.npy, text_feat.npy and others with names of this form are optional: one row for each column
of the matrices. Ids are indices.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ..dataset import Dataset, Splits, build
from ..features import FeatureFiles
from ..ids import check_gaps, note_counting_from_one
from ..options import TABLE_OPTIONS, LoadOptions
from ..pickles import SparsePairs, read_sparse_pickle

NAME = "diffmm"
NEEDS = "trnMat.pkl, valMat.pkl, tstMat.pkl"
FILES = {"train": "trnMat.pkl", "val": "valMat.pkl", "test": "tstMat.pkl"}


def fits(folder: Path) -> bool:
    """Whether the folder contains any of the three matrices."""
    return any((folder / file).exists() for file in FILES.values())


def read(folder: Path, options: LoadOptions) -> Dataset:
    """Read the folder as a Dataset with its split. Raises InputError if a file is invalid."""
    options.refuse(folder, NAME, TABLE_OPTIONS)
    splits: Splits = {}
    notes: list[str] = []
    shape = (0, 0)
    for split, file in FILES.items():
        pairs = read_sparse_pickle(folder / file)
        if not splits:
            shape = pairs.shape
            check_gaps(folder / file, "users", shape[0], pairs.rows)
            check_gaps(folder / file, "items", shape[1], pairs.columns)
        if pairs.shape != shape:
            raise InputError(
                f"{folder / file}: is {pairs.shape[0]} x {pairs.shape[1]}, but {FILES['train']} is {shape[0]} x "
                f"{shape[1]}; the three matrices must have the same shape"
            )
        splits[split] = positive(folder / file, pairs, notes)
    files = FeatureFiles(folder, options.modalities)
    for axis, side in enumerate(("user", "item")):
        index = np.concatenate([sides[axis] for sides in splits.values()])
        note_counting_from_one(side, index, notes, side == "item" and bool(files.chosen))
    features = files.read(shape[1], None, options, notes)
    return build(folder, NAME, shape, splits, features, notes=notes)


def positive(path: Path, pairs: SparsePairs, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(users, items) of the positive entries. Appends notes about zeros and about values other than 1. Raises
    InputError for negative values."""
    if (pairs.values < 0).any():
        first = int((pairs.values < 0).argmax())
        raise InputError(
            f"{path}: user {pairs.rows[first]}, item {pairs.columns[first]} has the value {pairs.values[first]:g}; "
            "values must be positive"
        )
    is_positive = pairs.values > 0
    if not is_positive.all():
        notes.append(f"{path.name}: {(~is_positive).sum()} stored zeros ignored")
    if (pairs.values[is_positive] != 1).any():
        notes.append(f"{path.name}: values other than 1 count as 1")
    return pairs.rows[is_positive], pairs.columns[is_positive]
