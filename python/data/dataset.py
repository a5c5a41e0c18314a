"""Dataset, the result of reading any layout, and the checks that all layouts share."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ..errors import InputError, shown
from .npy import release

SPLITS = ("train", "val", "test")
Splits: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]  # {split: (users, items)}, int64 [n] each
Weights: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # users, items, weights of rows
_DROPPED = (("val", "train"), ("test", "train"), ("val", "test"))  # pairs of the first that are also in the second
_VALUES_AT_ONCE = 1 << 22
_FLOAT = re.compile(r"-?[0-9]+\.0")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions in three splits, and item features. Users and items are numbered from 0.

    train, val, test: SciPy CSR float32 [n_users, n_items]; all stored values are 1, columns are sorted, there are no
    duplicates, and no pair is in two splits. features: {modality: float32 or float16 [n_items, d_m]}, row = item;
    finite, except that a row of NaN is a missing one. user_ids, item_ids: original ids (int64 or str) by index; None if
    the ids are the indices. notes: one line for each correction and each property that the user should know.
    fingerprint: sha256 of sizes, splits, features and weights. It does not depend on the layout, the order in the files
    or the original ids. weights: float32 [number of training interactions] in the order of train.indices, positive,
    with the mean 1; None if all are equal.

    >>> from mmssl_trainer import load_data
    >>> data = load_data()
    >>> data.n_users, data.n_items, data.modalities
    (1500, 1000, ['image', 'text'])
    >>> data.train.shape, data.find_items(["7"])
    ((1500, 1000), array([7]))
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
    weights: np.ndarray | None = None

    @property
    def weighted(self) -> sp.csr_array:
        """The training interactions with their weights as values; without weights `train`."""
        if self.weights is None:
            return self.train
        matrix = sp.csr_array((self.weights, self.train.indices, self.train.indptr), shape=self.train.shape)
        matrix.has_canonical_format = True
        return matrix

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities, in the order of `features`."""
        return list(self.features)

    def item_degrees(self) -> np.ndarray:
        """The number of training interactions of each item, int64 [I]. Counted in blocks, because bincount converts its
        argument to int64."""
        items, counts = self.train.indices, np.zeros(self.n_items, np.int64)
        for begin in range(0, len(items), _VALUES_AT_ONCE):
            counts += np.bincount(items[begin : begin + _VALUES_AT_ONCE], minlength=self.n_items)
        return counts

    def release_features(self) -> None:
        """Give the memory of memory-mapped features back to the system, which reads them again when they are used."""
        for values in self.features.values():
            release(values)

    def original_users(self, index: npt.ArrayLike) -> np.ndarray:
        """The original ids of users given by index."""
        index = np.asarray(index, dtype=np.int64)
        return index if self.user_ids is None else self.user_ids[index]

    def original_items(self, index: npt.ArrayLike) -> np.ndarray:
        """The original ids of items given by index."""
        index = np.asarray(index, dtype=np.int64)
        return index if self.item_ids is None else self.item_ids[index]

    @cached_property
    def user_index(self) -> dict[str, int]:
        """{original id as text: index} of the users."""
        return _index(self.user_ids, self.n_users)

    @cached_property
    def item_index(self) -> dict[str, int]:
        """{original id as text: index} of the items."""
        return _index(self.item_ids, self.n_items)

    def find_users(self, ids: Iterable[str | int]) -> np.ndarray:
        """Indices (int64) of users given by original id, int or text. Raises InputError for an unknown id."""
        return _find(ids, self.user_index, f"{self.name}: user")

    def find_items(self, ids: Iterable[str | int]) -> np.ndarray:
        """Indices (int64) of items given by original id, int or text. Raises InputError for an unknown id."""
        return _find(ids, self.item_index, f"{self.name}: item")

    def with_modalities(self, modalities: Sequence[str]) -> Dataset:
        """The dataset with only these modalities, in this order. It has another fingerprint."""
        missing = [modality for modality in modalities if modality not in self.features]
        if missing:
            raise InputError(
                f"{self.name}: has no modality {shown(missing[0])}; its modalities are {', '.join(self.features)}"
            )
        features = {modality: self.features[modality] for modality in modalities}
        chosen = replace(self, features=features)
        return replace(chosen, fingerprint=fingerprint(chosen))


def build(
    folder: str | Path,
    layout: str,
    shape: tuple[int, int],
    splits: Splits,
    features: dict[str, np.ndarray],
    user_ids: np.ndarray | None = None,
    item_ids: np.ndarray | None = None,
    notes: Iterable[str] = (),
    weights: Weights | None = None,
) -> Dataset:
    """A Dataset, named after its folder, from index pairs {split: (users int64 [n], items int64 [n])}.

    shape: (n_users, n_items). weights: of rows, which include every training pair; those of equal pairs are added.
    Duplicates are merged. Validation and test pairs that are also in the training set are dropped, as are validation
    pairs that are also in the test set. The notes report this, and users and items without training interactions.
    Raises InputError if the training set is empty.
    """
    n_users, n_items = shape
    name = Path(folder).resolve().name
    notes = list(notes)
    removed: Counter[Any] = Counter()
    keys = separated(splits, n_items, removed)
    if not len(keys["train"]):
        refuse_empty(folder)
    matrices = {split: _csr(keys[split], n_users, n_items) for split in SPLITS}
    of_pairs = None if weights is None else _weights(folder, keys["train"], n_items, weights, notes)
    idle = [
        count - int(np.count_nonzero(matrices["train"].sum(axis=axis))) for axis, count in ((1, n_users), (0, n_items))
    ]
    for side, ids in (("user", user_ids), ("item", item_ids)):
        notes += float_notes(side, ids)
    notes += split_notes(removed, idle, shape, {split: len(keys[split]) for split in SPLITS})
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
        weights=of_pairs,
    )
    return replace(data, fingerprint=fingerprint(data))


def separated(splits: Splits, n_items: int, removed: Counter[Any]) -> dict[str, np.ndarray]:
    """{split: distinct keys, user · n_items + item, ascending} of {split: (users, items)}, without the pairs that are
    in two splits. Adds to the Counter `removed` the number of pairs merged in each split, and dropped from one split
    because of another: {split or (split, other split): count}."""
    keys = {}
    for split in SPLITS:
        users, items = (np.asarray(side, dtype=np.int64) for side in splits.get(split, ((), ())))
        keys[split] = distinct(users * n_items + items)
        removed[split] += len(users) - len(keys[split])
    for split, other in _DROPPED:
        repeated = _members(keys[split], keys[other])
        keys[split] = keys[split][~repeated]
        removed[split, other] += int(repeated.sum())
    return keys


def refuse_empty(folder: str | Path) -> NoReturn:
    """Raise InputError, because there are no training interactions."""
    raise InputError(f"{folder}: the training set is empty; give at least one training interaction")


def split_notes(
    removed: Counter[Any], idle: Sequence[int], shape: tuple[int, int], counts: dict[str, int]
) -> list[str]:
    """Notes about the pairs that `separated` removed, users and items without training interactions, and empty splits.

    idle: numbers of users and items without training interactions. counts: {split: pairs}.
    """
    notes = [
        f"{split}: {removed[split]} duplicate {_pairs(removed[split])} merged" for split in SPLITS if removed[split]
    ]
    for split, other in _DROPPED:
        if count := removed[split, other]:
            name = "training" if other == "train" else other
            notes.append(f"{split}: {count} {_pairs(count)} dropped, also in the {name} set")
    for side, lacking, count in zip(("user", "item"), idle, shape, strict=True):
        if lacking:
            notes.append(f"{lacking} of {count} {side}s have no training interactions")
    return notes + [f"{split}: no interactions" for split in ("val", "test") if not counts[split]]


def fingerprint(data: Dataset) -> str:
    """sha256 (hex) over sizes, the sorted pairs of each split, each modality's name, dtype, shape and values, and the
    weights, if there are any."""
    digest = hashlib.sha256(f"mmssl data 1 {data.n_users} {data.n_items}".encode())
    for split in SPLITS:
        matrix = getattr(data, split)
        digest.update(f" {split} {matrix.nnz} ".encode())
        _digest(digest, matrix.indptr, "<i8")
        _digest(digest, matrix.indices, "<i8")
    for modality in sorted(data.features):
        values = data.features[modality]
        digest.update(f" {modality} {values.dtype.name} {values.shape} ".encode())
        _digest(digest, values, values.dtype.newbyteorder("<"))
        release(values)
    if data.weights is not None:
        digest.update(b" weights ")
        _digest(digest, data.weights, "<f4")
    return digest.hexdigest()


def _digest(digest: Any, array: np.ndarray, dtype: npt.DTypeLike) -> None:
    """Add the values to a hash, in blocks: the arrays of prepared data are larger than the memory."""
    step = max(1, _VALUES_AT_ONCE // max(1, array[:1].size))
    for begin in range(0, len(array), step):
        digest.update(np.ascontiguousarray(array[begin : begin + step], dtype=dtype))


def distinct(keys: np.ndarray) -> np.ndarray:
    """Equals np.unique(keys) for int64 [n]. Sorting is several times faster here than the hash table of NumPy."""
    keys = np.sort(keys)
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    return keys[is_first]


def _members(keys: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Equals np.isin(keys, reference) for sorted arrays."""
    if not len(reference):
        return np.zeros(len(keys), bool)
    return reference[np.minimum(np.searchsorted(reference, keys), len(reference) - 1)] == keys


def _csr(keys: np.ndarray, n_users: int, n_items: int) -> sp.csr_array:
    indptr = np.searchsorted(keys, np.arange(n_users + 1, dtype=np.int64) * n_items)
    columns = (keys % max(n_items, 1)).astype(np.int32 if n_items < 2**31 else np.int64)
    matrix = sp.csr_array((np.ones(len(keys), np.float32), columns, indptr), shape=(n_users, n_items))
    matrix.has_canonical_format = True
    return matrix


def _weights(folder: str | Path, keys: np.ndarray, n_items: int, rows: Weights, notes: list[str]) -> np.ndarray | None:
    """The weights of the training pairs, float32 [n], None if they are equal. Appends a note.

    keys: of the pairs, ascending. The result does not depend on the order of the rows.
    """
    users, items, values = rows
    row_keys = np.asarray(users, np.int64) * n_items + items
    inside = _members(row_keys, keys)
    row_keys, values = row_keys[inside], values[inside]
    order = np.lexsort((values, row_keys))
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(values[order], np.searchsorted(row_keys[order], keys))
        mean = sums.mean()
        weights = (sums / mean).astype(np.float32)
    repeated = len(values) - len(keys)
    added = f"; the weights of {repeated} repeated {'row' if repeated == 1 else 'rows'} are added" if repeated else ""
    if sums.min() == sums.max():
        notes.append(
            f"weights: all training interactions have the weight {sums[0]:g}, so weights change nothing{added}"
        )
        return None
    if not (weights > np.finfo(np.float32).tiny).all() or not np.isfinite(weights).all():
        raise InputError(
            f"{folder}: the weights of the training interactions range from {sums.min():g} to {sums.max():g}, beyond "
            "what float32 can hold relative to their mean; give weights of similar sizes"
        )
    notes.append(
        f"weights: those of the training interactions are from {sums.min():g} to {sums.max():g}, and are divided by "
        f"their mean {mean:g}{added}"
    )
    return weights


def _ids(ids: np.ndarray | None, count: int) -> np.ndarray | None:
    """The ids, or None if they are 0..count-1."""
    if ids is None or (ids.dtype.kind == "i" and np.array_equal(ids, np.arange(count))):
        return None
    return ids


def _index(original_ids: np.ndarray | None, count: int) -> dict[str, int]:
    texts = range(count) if original_ids is None else original_ids.tolist()
    return {str(text): i for i, text in enumerate(texts)}


def _find(ids: Iterable[str | int], index: dict[str, int], label: str) -> np.ndarray:
    ids = id_list(ids, label)
    for text in map(str, ids):
        if text not in index:
            advice = written_as_float(text, index) or "give ids as in the interaction table"
            raise InputError(f"{label} {shown(text)} is not in the data; {advice}")
    return np.array([index[str(text)] for text in ids], np.int64)


def id_list(ids: Iterable[Any], what: str) -> list[Any]:
    """The ids as a list. Raises InputError for a single id, because a text would be read as one id per character."""
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        raise InputError(f"{what} {shown(ids)}: give a list of ids, such as [{shown(ids)}]")
    return list(ids)


def written_as_float(text: str, index: Container[str]) -> str | None:
    """What to do if `text` is an integer id of `index` as pandas writes it in a column of floats: 17.0. Otherwise
    None."""
    whole = text.removesuffix(".0")
    if whole == text or text in index or whole not in index:
        return None
    return f"the data has {shown(whole)}; write the column as integers, with astype('int64') in pandas"


def float_notes(side: str, ids: Any) -> list[str]:
    """A note, as a list, if the original ids look like integers that were written as floats. ids: a NumPy or Arrow
    array, or None."""
    first = [] if ids is None else [str(text) for text in ids[:100].tolist()]
    if not first or not all(_FLOAT.fullmatch(text) for text in first):
        return []
    return [
        f"the {side} ids are kept as texts such as {shown(first[0])}. If they should be integers, write the column "
        "with astype('Int64') in pandas"
    ]


def refuse_floats(ids: Iterable[Any], index: Container[str], label: str) -> None:
    """Raise InputError if an unknown id is a known one that was written as a float: it would be ignored."""
    for text in map(str, ids):
        if advice := written_as_float(text, index):
            raise InputError(f"{label} {shown(text)} is not in the data; {advice}")


def _pairs(count: int) -> str:
    return "pair" if count == 1 else "pairs"
