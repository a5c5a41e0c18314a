"""SSLRec's pickled matrices: train_mat.pkl, valid_mat.pkl and test_mat.pkl, or trn_mat.pkl and tst_mat.pkl."""

import numpy as np

from ...errors import InputError
from ..ids import check_gaps
from ..layouts.diffmm import positive
from ..pickles import read_sparse_pickle
from .source import of_indices

NAME = "sslrec"
TITLE = "SSLRec's layout"
FILES = {
    "train": ("train_mat.pkl", "trn_mat.pkl"),
    "val": ("valid_mat.pkl", "val_mat.pkl"),
    "test": ("test_mat.pkl", "tst_mat.pkl"),
}


def fits(folder):
    """Whether there is a training matrix, and no train.json that would make it another layout."""
    return any((folder / name).is_file() for name in FILES["train"]) and not (folder / "train.json").exists()


def read(folder):
    """The folder as a Source."""
    pairs, notes, shape = {}, [], None
    for split, names in FILES.items():
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is None:
            continue
        matrix = read_sparse_pickle(path)
        if shape is not None and matrix.shape != shape:
            raise InputError(
                f"{path}: is {matrix.shape[0]} x {matrix.shape[1]}, the training matrix {shape[0]} x {shape[1]}"
            )
        shape = matrix.shape
        pairs[split] = positive(path, matrix, notes)
    users, items = (np.concatenate([one[at] for one in pairs.values()]) for at in (0, 1))
    for what, count, index in (("users", shape[0], users), ("items", shape[1], items)):
        check_gaps(folder, what, count, index)
    source = of_indices(folder, pairs, shape)
    source.notes += notes
    return source
