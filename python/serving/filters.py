"""The columns of a table of items by whose values a request may choose items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.cells import read_columns
from ..errors import InputError, shown
from ..inference.files import values_of, whole
from .limits import Refusal

Value = str | int


class Filters:
    """{column: {value: indices of the items that have it, in ascending order}}, with the rules of `recommend --filter`:
    a cell has its whole text as a value, and each part between bars."""

    def __init__(self, columns: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        self.columns = columns

    @classmethod
    def read(cls, path: Path, columns: Sequence[str], item_index: Mapping[str, int]) -> Filters:
        """These columns of a table with a column item. Rows of other items are ignored."""
        texts = read_columns(path, list(dict.fromkeys(["item", *columns])))
        rows = [item_index.get(item, -1) for item in texts["item"]]
        if max(rows, default=-1) < 0:
            raise InputError(f"{path}: none of its items is an item of the model; give ids as in the data")
        found: dict[str, dict[str, np.ndarray]] = {}
        for column in columns:
            items: dict[str, list[int]] = {}
            for index, cell in zip(rows, texts[column], strict=True):
                if index >= 0:
                    for value in values_of(cell):
                        items.setdefault(value, []).append(index)
            found[column] = {value: np.unique(np.array(own, np.int64)) for value, own in items.items()}
        return cls(found)

    def find(self, wanted: Mapping[str, Value | Sequence[Value]]) -> np.ndarray:
        """The items, in ascending order, that have one of the wanted values in every column. Raises Refusal."""
        kept: np.ndarray | None = None
        asked = []
        for column, values in wanted.items():
            if column not in self.columns:
                raise Refusal(422, f"filters: there is no column {shown(column)}; the columns are {self.names}")
            if not _several(values):
                raise Refusal(422, f"filters: {shown(column)} has no values; give at least one, or leave it out")
            allowed = sorted({whole(str(value).strip()) for value in _several(values)})
            asked.append(f"{column}={' or '.join(allowed)}")
            own = self.columns[column]
            parts = [own[value] for value in allowed if value in own]
            items = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
            kept = items if kept is None else np.intersect1d(kept, items, assume_unique=True)
        if kept is None or not len(kept):
            reason = InputError(f"no item has {', '.join(asked)}"[:300])  # without control characters
            raise Refusal(422, f"filters: {reason}; check the spelling of the value")
        return kept

    @property
    def names(self) -> str:
        return ", ".join(self.columns)


def _several(values: Value | Sequence[Value]) -> Sequence[Value]:
    return [values] if isinstance(values, (str, int)) else values
