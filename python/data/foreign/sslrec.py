"""The pickled matrices of SSLRec: train_mat.pkl, valid_mat.pkl and test_mat.pkl, or trn_mat.pkl and tst_mat.pkl."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import InputError
from ..dataset import Splits
from ..ids import check_gaps
from ..layouts.diffmm import positive
from ..pickles import read_sparse_pickle
from .source import Source, of_indices

NAME = "sslrec"
TITLE = "the layout of SSLRec"
FILES = {
    "train": ("train_mat.pkl", "trn_mat.pkl"),
    "val": ("valid_mat.pkl", "val_mat.pkl"),
    "test": ("test_mat.pkl", "tst_mat.pkl"),
}


def fits(folder: Path) -> bool:
    """Whether the folder contains a training matrix and no train.json, which would be the layout hkuds."""
    return any((folder / name).is_file() for name in FILES["train"]) and not (folder / "train.json").exists()


def read(folder: Path) -> Source:
    """Read the folder as a Source."""
    pairs: Splits = {}
    notes: list[str] = []
    shape = (0, 0)
    for split, names in FILES.items():
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is None:
            continue
        matrix = read_sparse_pickle(path)
        if pairs and matrix.shape != shape:
            raise InputError(
                f"{path}: is {matrix.shape[0]} x {matrix.shape[1]}, but the training matrix is {shape[0]} x {shape[1]}"
            )
        shape = matrix.shape
        pairs[split] = positive(path, matrix, notes)
    users, items = (np.concatenate([pair[axis] for pair in pairs.values()]) for axis in (0, 1))
    for side, count, index in (("users", shape[0], users), ("items", shape[1], items)):
        check_gaps(folder, side, count, index)
    source = of_indices(folder, pairs, shape)
    source.notes += notes
    return source
