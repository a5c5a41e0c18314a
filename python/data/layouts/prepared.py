"""The prepared layout, which `mmssl-fast data prepare` writes: NumPy arrays that are memory-mapped.

prepared.json: sizes, number of interactions of each split, modalities with shape and dtype, notes, fingerprint.
<split>_indptr.npy (int64 [users + 1]) and <split>_indices.npy (int32, ascending in each row): the CSR of a split.
<modality>_feat.npy: features in item order, float32 or float16.
train_weights.npy: weights of the training interactions (float32), if they have any.
user_ids.npy, item_ids.npy: original ids by index (int64 or text); missing if the ids are the indices.

The arrays are mapped copy-on-write, so that processes on one machine share the pages, and only pages that are used are
read. The fingerprint is that of the data when it was prepared; the indices are checked, because the operations rely on
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp

from ...errors import InputError, shown
from ..dataset import SPLITS, Dataset
from ..features import missing_rows
from ..npy import release
from ..options import TABLE_OPTIONS, LoadOptions

NAME = "prepared"
MANIFEST = "prepared.json"
WEIGHTS = "train_weights.npy"
NEEDS = f"{MANIFEST} and the arrays that mmssl-fast data prepare writes"
VERSION, WEIGHTED = 1, 2  # of a folder without and with weights, which earlier versions would ignore
_BLOCK = 1 << 22
_KEYS = {"format": int, "users": int, "items": int, "interactions": dict, "features": dict, "notes": list}


def fits(folder: Path) -> bool:
    """Whether the folder has been written by `data prepare`."""
    return (folder / MANIFEST).exists()


def read(folder: Path, options: LoadOptions) -> Dataset:
    """The Dataset of the folder, memory-mapped. Raises InputError if a file is missing, damaged or of another size."""
    options.refuse(folder, NAME, TABLE_OPTIONS)
    content = _manifest(folder)
    n_users, n_items = content["users"], content["items"]
    matrices = {split: _matrix(folder, split, n_users, n_items, content["interactions"]) for split in SPLITS}
    weights = _weights(folder, matrices["train"].nnz) if content["format"] == WEIGHTED else None
    features = {}
    for modality, description in content["features"].items():
        path = folder / f"{modality}_feat.npy"
        values = mapped(path)
        if [*values.shape] != description["shape"] or values.dtype.name != description["dtype"] or values.ndim != 2:
            _refuse(path, f"is {values.dtype} {values.shape}", f"{description['dtype']} {description['shape']}")
        if len(values) != n_items or values.dtype not in (np.float32, np.float16):
            _refuse(path, f"is {values.dtype} {values.shape}", f"float32 or float16 of {n_items} items")
        features[modality] = values
    ids = {side: _ids(folder / f"{side}_ids.npy", count) for side, count in (("user", n_users), ("item", n_items))}
    data = Dataset(
        folder.resolve().name,
        NAME,
        n_users,
        n_items,
        **matrices,
        features=features,
        user_ids=ids["user"],
        item_ids=ids["item"],
        notes=list(content["notes"]),
        fingerprint=content["fingerprint"],
        weights=weights,
    )
    if options.modalities is not None and list(options.modalities) != data.modalities:
        data = data.with_modalities(options.modalities)
    if options.missing_features == "mean":
        for modality, values in data.features.items():
            missing = missing_rows(values).any()
            release(values)
            if missing:
                raise InputError(
                    f"{folder / f'{modality}_feat.npy'}: was prepared with missing rows, which missing_features = "
                    "'mean' does not change; prepare the data again with --missing-features mean, or leave it out"
                )
    return data


def assembled(folder: Path, shape: tuple[int, int], features: dict[str, np.ndarray], notes: list[str]) -> Dataset:
    """The Dataset of arrays that are being written to the folder, without ids and fingerprint."""
    matrices = {split: csr(folder, split, shape) for split in SPLITS}
    weights = mapped(path) if (path := folder / WEIGHTS).exists() else None
    return Dataset(folder.name, NAME, *shape, **matrices, features=features, notes=notes, weights=weights)


def csr(folder: Path, split: str, shape: tuple[int, int]) -> sp.csr_array:
    """The CSR of a split, memory-mapped. All values are 1, and take no memory: they cannot be assigned to."""
    indptr, indices = (mapped(folder / f"{split}_{part}.npy") for part in ("indptr", "indices"))
    if len(indices) < 2**31:
        indptr = indptr.astype(np.int32)  # SciPy would otherwise copy the indices to the dtype of indptr
    matrix = sp.csr_array((np.broadcast_to(np.float32(1), indices.shape), indices, indptr), shape=shape)
    matrix.has_canonical_format = True
    return matrix


def mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped. Raises InputError if it cannot be read."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; prepare the data again")
        values = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as first:
        try:  # an array without values cannot be mapped
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError):
            values = None
        if values is None or values.size:
            raise InputError(f"{path}: is damaged ({shown(str(first), 120)}); prepare the data again") from None
    return np.asarray(values)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({shown(str(error), 120)}); prepare the data again") from None
    kinds = _KEYS | {"fingerprint": str}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: lacks one of the keys {', '.join(kinds)}; prepare the data again")
    if content["format"] not in (VERSION, WEIGHTED):
        raise InputError(f"{path}: has the format {content['format']}, expected {VERSION}; prepare the data again")
    described = content["features"].values()
    if any(not isinstance(one, dict) or set(one) != {"shape", "dtype"} for one in described):
        raise InputError(f"{path}: features must have shape and dtype; prepare the data again")
    return content


def _matrix(folder: Path, split: str, n_users: int, n_items: int, counts: dict[str, int]) -> sp.csr_array:
    matrix_files = [folder / f"{split}_{part}.npy" for part in ("indptr", "indices")]
    indptr, indices = map(mapped, matrix_files)
    count = counts.get(split)
    if indptr.dtype != np.int64 or indptr.shape != (n_users + 1,):
        _refuse(matrix_files[0], f"is {indptr.dtype} {indptr.shape}", f"int64 ({n_users + 1},)")
    if indices.dtype != np.int32 or indices.shape != (count,):
        _refuse(matrix_files[1], f"is {indices.dtype} {indices.shape}", f"int32 ({count},)")
    if indptr[0] != 0 or indptr[-1] != count or (np.diff(indptr) < 0).any():
        _refuse(matrix_files[0], "does not ascend", f"offsets from 0 to {count}")
    for begin in range(0, len(indices), _BLOCK):
        block = indices[begin : begin + _BLOCK]
        if block.min() < 0 or block.max() >= n_items:
            row = begin + int(np.argmax((block < 0) | (block >= n_items)))
            _refuse(matrix_files[1], f"has the item {indices[row]} at position {row}", f"0..{n_items - 1}")
    return csr(folder, split, (n_users, n_items))


def _weights(folder: Path, count: int) -> np.ndarray:
    path = folder / WEIGHTS
    values = mapped(path)
    if values.dtype != np.float32 or values.shape != (count,):
        _refuse(path, f"is {values.dtype} {values.shape}", f"float32 ({count},)")
    for begin in range(0, count, _BLOCK):
        block = values[begin : begin + _BLOCK]
        bad = ~((block > 0) & np.isfinite(block))
        if bad.any():
            row = begin + int(np.argmax(bad))
            _refuse(path, f"has {values[row]} at position {row}", "a positive number")
    return values


def _ids(path: Path, count: int) -> np.ndarray | None:
    if not path.exists():
        return None
    ids = mapped(path)
    if ids.shape != (count,) or (ids.dtype != np.int64 and ids.dtype.kind != "U"):
        _refuse(path, f"is {ids.dtype} {ids.shape}", f"int64 or text ({count},)")
    return ids


def _refuse(path: Path, found: str, expected: str) -> NoReturn:
    raise InputError(f"{path}: {found}; expected {expected}; prepare the data again")
