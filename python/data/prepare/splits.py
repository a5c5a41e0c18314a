"""The splits of data.split for rows in groups. Every rule but "time" concerns the rows of one user only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import SPLITS, Splits
from ..options import LoadOptions
from ..split import dated_bounds, earliest, refuse_mixed_units, split_at, split_latest, split_per_user, time_ranks
from .grouped import Rows

_BLOCK = 1 << 21
_DIGIT = 16  # bits that a pass over the times decides


def splitter(
    rows: Rows, options: LoadOptions, has_split: bool, folder: Path, path: Path
) -> Callable[[np.ndarray], Splits]:
    """A function group → {split: (users, items)}, the same pairs as data.split gives for all rows at once.

    folder: for temporary files. path: of the table, for messages.
    """
    if has_split:
        return lambda group: {
            split: (group["user"][group["split"] == number], group["item"][group["split"] == number])
            for number, split in enumerate(SPLITS)
        }
    if options.split in ("last", "time"):
        refuse_mixed_units(path, (group["time"] for group in rows))
    if options.split == "last":
        return lambda group: split_latest(group["user"], group["item"], group["time"], options.split_last, options.seed)
    if options.split == "time":
        if options.split_dates:
            bounds = dated_bounds(options, max((float(group["time"].max(initial=0)) for group in rows), default=0.0))
        else:
            bounds = _time_bounds(rows, options.split_share, folder / "times")
        return lambda group: split_at(*earliest(group["user"], group["item"], group["time"]), *bounds)
    return lambda group: split_per_user(group["user"], group["item"], options.seed, options.split_share)


def _time_bounds(rows: Rows, share: float, path: Path) -> tuple[Any, Any]:
    """(time of the first validation pair, of the first test pair) of all distinct pairs."""
    count = 0
    with path.open("wb") as file:
        for group in rows:
            times = earliest(group["user"], group["item"], group["time"])[2]
            file.write(np.ascontiguousarray(times).data)
            count += len(times)
    dtype = rows.dtype["time"]
    bounds = tuple(_ranked(path, dtype, rank) for rank in time_ranks(count, share)) if count else (0, 0)
    path.unlink()
    return bounds


def _ranked(path: Path, dtype: np.dtype, rank: int) -> Any:
    """np.sort(np.fromfile(path, dtype))[rank] with memory for one block: a radix selection, from the highest bits."""
    prefix = np.uint64(0)
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        counts, block = np.zeros(1 << _DIGIT, np.int64), 0
        while len(values := np.fromfile(path, dtype, _BLOCK, offset=block * _BLOCK * dtype.itemsize)):
            keys = _ordered(values)
            if shift < 64 - _DIGIT:
                keys = keys[keys >> np.uint64(shift + _DIGIT) == prefix]
            digits = (keys >> np.uint64(shift)) & np.uint64((1 << _DIGIT) - 1)
            counts += np.bincount(digits.astype(np.int64), minlength=1 << _DIGIT)
            block += 1
        digit = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
        rank -= int(counts[:digit].sum())
        prefix = (prefix << np.uint64(_DIGIT)) | np.uint64(digit)
    top = np.uint64(1 << 63)
    if dtype.kind == "i":
        return (prefix ^ top).view(np.int64)
    return (prefix ^ top if prefix & top else ~prefix).view(np.float64)


def _ordered(values: np.ndarray) -> np.ndarray:
    """uint64 in the same order as int64 or float64 values."""
    top = np.uint64(1 << 63)
    if values.dtype.kind == "i":
        return values.view(np.uint64) ^ top
    bits = (values + 0.0).view(np.uint64)  # + 0.0 makes -0.0 equal to 0.0
    return np.where(bits & top, ~bits, bits | top)
