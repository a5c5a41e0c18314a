"""Rows of interactions on disk, sorted by users coarsely: a group has all rows of consecutive users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 1 << 22  # of a group; a user with more rows is in one group nevertheless


class Rows:
    """Rows in a file in the folder, with the fields user and item (int32), and split (uint8) and time if needed."""

    def __init__(self, folder: Path, n_users: int, has_split: bool, times: type | None) -> None:
        fields: list[tuple[str, Any]] = [("user", "<i4"), ("item", "<i4")]
        fields += [("split", "u1")] if has_split else []
        fields += [("time", np.dtype(times).newbyteorder("<"))] if times else []
        self.dtype, self.count, self.rows_of = np.dtype(fields), 0, np.zeros(n_users, np.int64)
        self._folder, self._path = folder, folder / "rows"
        self._file = self._path.open("wb")

    def add(self, **columns: np.ndarray) -> None:
        """Append rows."""
        block = np.empty(len(columns["user"]), self.dtype)
        for name, values in columns.items():
            block[name] = values
        self._file.write(block.data)
        self.count += len(block)
        np.add(self.rows_of, np.bincount(columns["user"], minlength=len(self.rows_of)), out=self.rows_of)

    def group(self) -> None:
        """Sort the rows by groups of users, from one file to another. Call this once, after the last `add`."""
        self._file.close()
        before = np.cumsum(self.rows_of) - self.rows_of
        group_of = before // ROWS  # of a user, ascending
        self._first = np.flatnonzero(np.diff(group_of, prepend=-1))  # users with whom a group begins
        self._begin = np.append(before[self._first], self.count) if len(before) else np.zeros(1, np.int64)
        if len(self._first) < 2:
            return
        target, filled = self._folder / "grouped", self._begin[:-1].copy()
        number = np.repeat(np.arange(len(self._first)), np.diff(np.append(self._first, len(before))))
        number = number.astype(np.min_scalar_type(len(self._first)))
        with target.open("wb") as file:
            for begin in range(0, self.count, ROWS):
                block = self._read(self._path, begin, min(ROWS, self.count - begin))
                group = number[block["user"]]
                block = block[np.argsort(group, kind="stable")]
                sizes = np.bincount(group, minlength=len(self._first))
                at = 0
                for one in np.flatnonzero(sizes).tolist():
                    file.seek(int(filled[one]) * self.dtype.itemsize)
                    file.write(block[at : at + sizes[one]].data)
                    filled[one] += sizes[one]
                    at += sizes[one]
        self._path.unlink()
        self._path = target

    def __iter__(self) -> Iterator[np.ndarray]:
        """The groups in the order of their users."""
        for begin, end in zip(self._begin[:-1].tolist(), self._begin[1:].tolist(), strict=True):
            if end > begin:
                yield self._read(self._path, begin, end - begin)

    def _read(self, path: Path, begin: int, count: int) -> np.ndarray:
        return np.fromfile(path, self.dtype, count, offset=begin * self.dtype.itemsize)
