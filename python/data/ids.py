"""Mapping ids to indices 0..n-1. An invalid id raises InputError with its row."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from .arrow import Column, numbers_or_texts
from .files import TABLE_ENDS, check_named, read_text
from .tables import column_names, read_table

_ALLOWED_GAPS = 1_000_000


def check_gaps(path: Path, side: str, count: int, indices: np.ndarray) -> None:
    """Raise InputError if `count` (declared, or largest id + 1) is implausibly large for the ids that occur.

    Otherwise a single id of 10^12 would cost terabytes of empty rows. The limit is a million plus a hundred per id.
    """
    if count <= _ALLOWED_GAPS:
        return
    occurring = len(np.unique(indices))
    if count > _ALLOWED_GAPS + 100 * occurring:
        raise InputError(
            f"{path}: has ids for {shown(int(count))} {side}, but only {occurring} occur; in this layout ids count "
            "from 0; use the plain layout for other ids"
        )


def read_id_list(path: Path, name: str) -> list[str]:
    """The ids in a table with a column `name`, or in a text file with one id per line, as texts in file order."""
    check_named(path)
    is_table = path.name.endswith(TABLE_ENDS)
    if path.suffix == ".parquet" or (is_table and (name in column_names(path) or len(column_names(path)) > 1)):
        column = read_table(path, [name])[name]
        return [column.texts[code] for code in column.codes.tolist()]
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def indices_of(path: Path, name: str, column: Column) -> np.ndarray:
    """The column as int64 [n], if its ids are indices counted from 0. Otherwise raises InputError with the row."""
    values = numbers_or_texts(column.texts)
    if values.dtype.kind == "i" and (not len(values) or values.min() >= 0):
        return values[column.codes]
    for code, text in enumerate(column.texts):
        if not (text.isascii() and text.isdigit() and numbers_or_texts([text]).dtype.kind == "i"):
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}; in this layout ids are integers "
                "counted from 0; use the plain layout for other ids"
            )
    raise InputError(f"{path}: column {name} contains ids above 2^63; use the plain layout for other ids")


def sorted_ids(column: Column, more: Iterable[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(distinct ids of the column and of `more`, index [n] of each row of the column). The ids are in ascending
    order, numbers by value and texts by code point. more: texts."""
    texts = list(dict.fromkeys([*column.texts, *more]))
    ids, inverse = np.unique(numbers_or_texts(texts), return_inverse=True)
    return ids, inverse.reshape(-1)[column.codes]


def note_counting_from_one(side: str, index: np.ndarray, notes: list[str], features: bool = False) -> None:
    """Append a note if the ids seem to count from 1: index 1 occurs and index 0 does not."""
    if index.min(initial=2) == 1:
        effect = "every item has the features of the next item" if features else f"{side} 0 does not exist"
        notes.append(
            f"{side} 0 has no interactions. If your {side} ids count from 1, {effect}; then subtract 1 from the ids"
        )


def listed_ids(path: Path, name: str, column: Column) -> tuple[np.ndarray, dict[str, int]]:
    """(ids, {text: index}) of a list of ids in file order. Raises InputError if an id occurs twice."""
    check_distinct(path, name, column)
    texts = [column.texts[code] for code in column.codes.tolist()]
    return numbers_or_texts(texts), {text: i for i, text in enumerate(texts)}


def check_distinct(path: Path, name: str, column: Column) -> None:
    """Raise InputError, with the row, if an id occurs twice in the column."""
    if len(column.texts) < len(column.codes):
        code = np.bincount(column.codes).argmax()
        row = int(np.flatnonzero(column.codes == code)[1]) + 1
        raise InputError(f"{path}: row {row} repeats the {name} {shown(column.texts[code])}; keep only one row")


def indices_in_list(path: Path, name: str, column: Column, index: dict[str, int], list_path: Path) -> np.ndarray:
    """The index of each row's id in a list, int64 [n]. index: {id: index}. Raises InputError for an id outside it."""
    for code, text in enumerate(column.texts):
        if text not in index:
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}, which is not in {list_path.name}; "
                "add it there"
            )
    return np.array([index[text] for text in column.texts], np.int64)[column.codes]
