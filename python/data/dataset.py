"""Dataset: what every layout is read into, and the rules that hold for all of them."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..errors import InputError, shown

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions in three splits and the items' features, users and items counted from 0.

    train, val, test: SciPy CSR float32 [n_users, n_items], every stored value 1, columns sorted, no duplicates; no pair
    lies in two splits. features: {modality: float32 or float16 [n_items, d_m], row = item}, finite. user_ids, item_ids:
    the original ids (int64 or str) by index, None where the index is the id. notes: one line for each thing that was
    put right or is worth knowing. fingerprint: sha256 over sizes, splits and features, whatever the layout, file order
    or original ids.
    """

    name: str
    layout: str
    n_users: int
    n_items: int
    train: sp.csr_array
    val: sp.csr_array
    test: sp.csr_array
    features: dict[str, np.ndarray]
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def modalities(self):
        """The modalities' names, in the order of features."""
        return list(self.features)

    def original_users(self, index):
        """The users' own ids for an array of indices."""
        index = np.asarray(index, dtype=np.int64)
        return index if self.user_ids is None else self.user_ids[index]

    def original_items(self, index):
        """The items' own ids for an array of indices."""
        index = np.asarray(index, dtype=np.int64)
        return index if self.item_ids is None else self.item_ids[index]

    def find_users(self, ids):
        """Indices (int64) of users given by their own ids, as int or text; raises InputError for an unknown one."""
        return _find(ids, self.user_ids, self.n_users, f"{self.name}: user")

    def find_items(self, ids):
        """Indices (int64) of items given by their own ids, as int or text; raises InputError for an unknown one."""
        return _find(ids, self.item_ids, self.n_items, f"{self.name}: item")

    def with_modalities(self, modalities):
        """The same data with these modalities only, in this order; the fingerprint changes with them."""
        missing = [modality for modality in modalities if modality not in self.features]
        if missing:
            raise InputError(f"{self.name}: has no modality {shown(missing[0])}; there are: {', '.join(self.features)}")
        features = {modality: self.features[modality] for modality in modalities}
        chosen = replace(self, features=features)
        return replace(chosen, fingerprint=fingerprint(chosen))


def build(folder, layout, shape, splits, features, user_ids=None, item_ids=None, notes=()):
    """A Dataset, named after its folder, from index pairs: {split: (users int64 [n], items int64 [n])} within shape =
    (n_users, n_items).

    Merges duplicates, drops validation and test pairs that are in training and validation pairs that are in test, and
    says so in the notes; so it does for users and items without a training interaction. Raises InputError where no
    training pair is left.
    """
    n_users, n_items = shape
    name = Path(folder).resolve().name
    notes = list(notes)
    keys = {}
    for split in SPLITS:
        users, items = (np.asarray(side, dtype=np.int64) for side in splits.get(split, ((), ())))
        keys[split] = distinct(users * n_items + items)
        merged = len(users) - len(keys[split])
        if merged:
            notes.append(f"{split}: {merged} duplicate {_pairs(merged)} merged")
    if not len(keys["train"]):
        raise InputError(f"{folder}: the training set is empty; give at least one training interaction")
    for split, elsewhere, where in (
        ("val", "train", "training"),
        ("test", "train", "training"),
        ("val", "test", "test"),
    ):
        known = _members(keys[split], keys[elsewhere])
        if known.any():
            keys[split] = keys[split][~known]
            notes.append(
                f"{split}: {known.sum()} {_pairs(known.sum())} dropped that {_are(known.sum())} in {where} too"
            )
    matrices = {split: _csr(keys[split], n_users, n_items) for split in SPLITS}
    for side, axis, count in (("user", 1, n_users), ("item", 0, n_items)):
        idle = count - np.count_nonzero(matrices["train"].sum(axis=axis))
        if idle:
            notes.append(f"{idle} of {count} {side}s have no training interaction")
    for split in ("val", "test"):
        if not len(keys[split]):
            notes.append(f"{split}: no interaction")
    data = Dataset(
        name,
        layout,
        n_users,
        n_items,
        **matrices,
        features=dict(features),
        user_ids=_ids(user_ids, n_users),
        item_ids=_ids(item_ids, n_items),
        notes=notes,
    )
    return replace(data, fingerprint=fingerprint(data))


def fingerprint(data):
    """sha256 (hex) over sizes, the sorted pairs of each split, and each modality's name, dtype, shape and values."""
    digest = hashlib.sha256(f"mmssl data 1 {data.n_users} {data.n_items}".encode())
    for split in SPLITS:
        matrix = getattr(data, split)
        digest.update(f" {split} {matrix.nnz} ".encode())
        digest.update(np.ascontiguousarray(matrix.indptr, dtype="<i8"))
        digest.update(np.ascontiguousarray(matrix.indices, dtype="<i8"))
    for modality in sorted(data.features):
        values = data.features[modality]
        digest.update(f" {modality} {values.dtype.name} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")))
    return digest.hexdigest()


def distinct(keys):
    """Equals np.unique(keys) for int64 [n]; by sorting, which is several times faster here than NumPy's hash table."""
    keys = np.sort(keys)
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return keys[new]


def _members(keys, others):
    """Equals np.isin(keys, others) for sorted keys and others."""
    if not len(others):
        return np.zeros(len(keys), bool)
    return others[np.minimum(np.searchsorted(others, keys), len(others) - 1)] == keys


def _csr(keys, n_users, n_items):
    indptr = np.searchsorted(keys, np.arange(n_users + 1, dtype=np.int64) * n_items)
    columns = (keys % max(n_items, 1)).astype(np.int32 if n_items < 2**31 else np.int64)
    matrix = sp.csr_array((np.ones(len(keys), np.float32), columns, indptr), shape=(n_users, n_items))
    matrix.has_canonical_format = True
    return matrix


def _ids(ids, count):
    """None where the ids are 0..count-1."""
    if ids is None or (ids.dtype.kind == "i" and np.array_equal(ids, np.arange(count))):
        return None
    return ids


def _find(ids, own, count, what):
    if own is None:
        index = {str(at): at for at in range(count)}
    else:
        index = {text: at for at, text in enumerate(own.astype(str).tolist())}
    found = np.empty(len(ids), np.int64)
    for at, one in enumerate(ids):
        if str(one) not in index:
            raise InputError(f"{what} {shown(str(one))} is not in the data; give ids as the interactions write them")
        found[at] = index[str(one)]
    return found


def _pairs(count):
    return "pair" if count == 1 else "pairs"


def _are(count):
    return "is" if count == 1 else "are"
