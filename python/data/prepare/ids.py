"""The distinct ids of a column that is read in batches, and the index of each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...errors import InputError, shown
from ..arrow import numbers_or_texts
from .stream import Batch, Encoded

_CANONICAL = "^(0|-?[1-9][0-9]{0,18})$"  # as in arrow.numbers_or_texts
_MERGE = 1 << 20
LIMIT = 2**31 - 1  # users or items: indices are int32


class IdSet:
    """Collects distinct ids. integers: whether they are int64, otherwise text."""

    def __init__(self, path: Path, name: str, integers: bool) -> None:
        import pyarrow as pa

        self.path, self.name, self.integers = path, name, integers
        self._kind = pa.int64() if integers else pa.large_string()
        self._pending: list[Any] = []
        self._merged, self._waiting = pa.array([], self._kind), 0

    def add(self, values: Any) -> None:
        """Add an Arrow array of ids."""
        self._pending.append(values if values.type == self._kind else values.cast(self._kind))
        self._waiting += len(values)
        if self._waiting > max(_MERGE, len(self._merged)):
            self._merge()

    def _merge(self) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._merged = pc.unique(pa.chunked_array([self._merged, *self._pending], self._kind))
        self._pending, self._waiting = [], 0
        if len(self._merged) > LIMIT:
            refuse_many(self.path, self.name, len(self._merged))

    def distinct(self) -> Any:
        """The ids, as Arrow array: int64 if all are canonical integers below 2^63, otherwise text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._merge()
        if self.integers or not pc.all(pc.match_substring_regex(self._merged, _CANONICAL)).as_py():
            return self._merged
        try:
            return self._merged.cast(pa.int64())
        except pa.ArrowInvalid:  # above 2^63
            return self._merged


def refuse_many(path: Path, name: str, count: int) -> NoReturn:
    """Raise InputError, because there are too many users or items."""
    raise InputError(f"{path}: has {count} {name}s; at most {LIMIT} are possible, so remove rare ones")


class Ids:
    """Ids in the order of their indices.

    values: Arrow array of int64 or text. list_path: the list that they come from, or None: then they are the ids of the
    data in ascending order.
    """

    def __init__(self, name: str, values: Any, integers: bool, list_path: Path | None = None) -> None:
        import pyarrow as pa

        self.name, self.values, self.list_path = name, values, list_path
        self._numbers = None
        if integers and values.type == pa.int64():
            numbers = values.to_numpy()
            if not len(numbers) or (numbers[1:] > numbers[:-1]).all():
                self._numbers = numbers
        if not integers or values.type != pa.int64():
            self.lookup = values.cast(pa.large_string())
        else:
            self.lookup = values

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def ascending(cls, name: str, found: IdSet, more: Collection[str] = ()) -> Ids:
        """All ids of an IdSet and of `more`, texts."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = found.distinct()
        if len(more):
            others = numbers_or_texts(list(more))
            others = pa.array(others) if others.dtype.kind == "i" else pa.array(others.tolist(), pa.large_string())
            if others.type != values.type:
                others, values = others.cast(pa.large_string()), values.cast(pa.large_string())
            values = pc.unique(pa.chunked_array([values, others]))
        order = pc.array_sort_indices(values)  # text by its UTF-8 bytes, which is the order of code points
        return cls(name, values.take(order), found.integers)

    def index(self, batch: Batch, column: Encoded) -> np.ndarray:
        """int64 [rows of the batch]: the index of each row's id. Raises InputError, with the row, for an unknown id."""
        import pyarrow.compute as pc

        values = column.values if column.values.type == self.lookup.type else column.values.cast(self.lookup.type)
        if self._numbers is not None:
            numbers = values.to_numpy()
            index = np.searchsorted(self._numbers, numbers)
            index[index == len(self._numbers)] = 0
            found = self._numbers[index] == numbers if len(self._numbers) else np.zeros(len(numbers), bool)
            index = np.where(found, index, -1)
        else:
            index = pc.fill_null(pc.index_in(values, self.lookup), -1).to_numpy().astype(np.int64)
        index = index[column.codes]
        row = first_unknown(index, batch.keep)
        if row is not None:
            text = str(values[column.codes[row]].as_py())
            where = (
                f"which is not in {self.list_path.name}; add it there"
                if self.list_path
                else "which was not there before"
            )
            raise InputError(f"{batch.path}: row {batch.start + row + 1} has the {self.name} {shown(text)}, {where}")
        return index

    def original(self) -> Any:
        """The ids as Arrow array, or None if they are 0..n-1."""
        import pyarrow as pa

        if self.values.type == pa.int64() and np.array_equal(self.values.to_numpy(), np.arange(len(self))):
            return None
        return self.values


class RowNumbers:
    """Item ids that are the row numbers of a feature file. count: its rows. refuse(path, row, text): raises the
    InputError for the first other id; None: there was none when the table was read before."""

    def __init__(self, count: int, refuse: Callable[[Path, int, str], None] | None) -> None:
        self._count, self._refuse = count, refuse

    def __len__(self) -> int:
        return self._count

    def index(self, batch: Batch, column: Encoded) -> np.ndarray:
        """As in Ids."""
        import pyarrow as pa

        numbers = column.values.cast(pa.int64()).to_numpy()
        index = np.where((numbers >= 0) & (numbers < self._count), numbers, -1)[column.codes]
        row = first_unknown(index, batch.keep)
        if row is not None:
            place, text = batch.start + row + 1, str(numbers[column.codes[row]])
            if self._refuse is not None:
                self._refuse(batch.path, place, text)
            raise InputError(f"{batch.path}: row {place} has the item {shown(text)}, which was not there before")
        return index

    def original(self) -> Any:
        """None: the ids are 0..n-1."""
        return None


def first_unknown(index: np.ndarray, keep: np.ndarray | None) -> int | None:
    """The first kept row with the index -1, or None."""
    unknown = index < 0 if keep is None else (index < 0) & keep
    return int(unknown.argmax()) if unknown.any() else None
