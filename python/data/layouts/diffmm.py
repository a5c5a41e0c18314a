"""The layout published beside DiffMM: three pickled SciPy matrices and one .npy a modality.

trnMat.pkl, valMat.pkl, tstMat.pkl: users x items, one shape, an entry a pair. image_feat.npy, audio_feat.npy,
text_feat.npy (any of them, others by the same pattern, or none): one row for each column of the matrices. Ids are
indices.
"""

import numpy as np

from ...errors import InputError
from ..dataset import build
from ..features import FeatureFiles
from ..ids import check_gaps, note_counting_from_one
from ..options import TABLE_OPTIONS
from ..pickles import read_sparse_pickle

NAME = "diffmm"
NEEDS = "trnMat.pkl, valMat.pkl, tstMat.pkl"
FILES = {"train": "trnMat.pkl", "val": "valMat.pkl", "test": "tstMat.pkl"}


def fits(folder):
    """Whether any of the three matrices is there."""
    return any((folder / file).exists() for file in FILES.values())


def read(folder, options):
    """The folder as a Dataset; the split is given. Raises InputError as the readers it calls."""
    options.refuse(folder, NAME, TABLE_OPTIONS)
    splits, notes, shape = {}, [], None
    for split, file in FILES.items():
        pairs = read_sparse_pickle(folder / file)
        if shape is None:
            shape = pairs.shape
            check_gaps(folder / file, "users", shape[0], pairs.rows)
            check_gaps(folder / file, "items", shape[1], pairs.columns)
        if pairs.shape != shape:
            raise InputError(
                f"{folder / file}: is {pairs.shape[0]} x {pairs.shape[1]}, {FILES['train']} is {shape[0]} x "
                f"{shape[1]}; the three matrices have one shape"
            )
        splits[split] = positive(folder / file, pairs, notes)
    files = FeatureFiles(folder, options.modalities)
    for at, side in enumerate(("user", "item")):
        index = np.concatenate([pairs[at] for pairs in splits.values()])
        note_counting_from_one(side, index, notes, bool(at and files.chosen))
    features = files.read(shape[1], None, options, notes)
    return build(folder, NAME, shape, splits, features, notes=notes)


def positive(path, pairs, notes):
    """(users, items) of the entries above zero; notes stored zeros and values other than 1, refuses negative ones."""
    if (pairs.values < 0).any():
        at = int((pairs.values < 0).argmax())
        raise InputError(
            f"{path}: user {pairs.rows[at]}, item {pairs.columns[at]} has the value {pairs.values[at]:g}; "
            "an interaction's value is positive"
        )
    kept = pairs.values > 0
    if not kept.all():
        notes.append(f"{path.name}: {(~kept).sum()} stored zeros are no interactions")
    if (pairs.values[kept] != 1).any():
        notes.append(f"{path.name}: values other than 1 count as 1")
    return pairs.rows[kept], pairs.columns[kept]
