"""Columns of a table: ids as Column, numbers and lists of numbers as arrays, converted from Arrow and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, install_command, shown

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
# Surrogates stand for bytes of a file name that are not UTF-8, and cannot be written.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
NUMBER = re.compile(r"\s*[-+]?[0-9]+(\.[0-9]*)?\s*")
LONGEST_ID = 200


def is_id(text: str) -> bool:
    """Whether a text may be an id: not empty, not too long and without control characters."""
    return 0 < len(text) <= LONGEST_ID and not _FORBIDDEN.search(text)


class Column(NamedTuple):
    """A column of ids. Row r has the id texts[codes[r]]; the texts are distinct and not empty."""

    texts: list[str]
    codes: np.ndarray

    @classmethod
    def of(cls, texts: list[str]) -> Column:
        """The Column of a list with one text per row."""
        seen: dict[str, int] = {}
        codes = np.array([seen.setdefault(text, len(seen)) for text in texts], np.int64)
        return cls(list(seen), codes)

    @classmethod
    def concatenated(cls, columns: Iterable[Column]) -> Column:
        """One Column with the rows of several, in order."""
        seen: dict[str, int] = {}
        codes = []
        for column in columns:
            new_codes = np.array([seen.setdefault(text, len(seen)) for text in column.texts], np.int64)
            codes.append(new_codes[column.codes])
        return cls(list(seen), np.concatenate(codes))

    def row_of(self, code: int) -> int:
        """The first row with the id texts[code], counted from 1 as in error messages."""
        return int(np.argmax(self.codes == code)) + 1

    def rows(self, index: np.ndarray) -> Column:
        """The Column of these rows: indices or a mask. Texts that no longer occur are dropped."""
        used, codes = np.unique(self.codes[index], return_inverse=True)
        return Column([self.texts[code] for code in used.tolist()], codes.reshape(-1))


def numbers_or_texts(texts: list[str]) -> np.ndarray:
    """An int64 array if all texts are canonical integers (no plus sign, no leading zeros), otherwise a NumPy str
    array."""
    if all(_CANONICAL.fullmatch(text) for text in texts):
        values = [int(text) for text in texts]
        if not values or (min(values) >= -(2**63) and max(values) < 2**63):
            return np.array(values, dtype=np.int64)
    return np.array(texts, dtype=str)


def check_ids(path: Path, name: str, column: Column, start: int = 0) -> Column:
    """Return the column. Raises InputError, with the row, for an id that is empty, too long or not printable."""
    for code, text in enumerate(column.texts):
        if not text:
            raise InputError(f"{path}: row {start + column.row_of(code)} has no {name}; add it or remove the row")
        if not is_id(text):
            raise InputError(
                f"{path}: row {start + column.row_of(code)} has the {name} {shown(text)}; ids must have at most "
                f"{LONGEST_ID} characters, all printable"
            )
    return column


def pyarrow() -> Any:
    """The module pyarrow. Raises InputError if it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"reading tables needs pyarrow, which is not installed; {install_command('train')}") from None
    return pyarrow


def column_of(path: Path, name: str, chunked: Any, start: int = 0) -> Column:
    """The Column of an Arrow column of integers or text. Raises InputError for an empty cell.

    start: number of rows of the file before this column, for the row in the message.
    """
    import pyarrow as pa

    refuse_nulls(path, name, chunked, start)
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.dictionary_encode()
    codes: list[np.ndarray] = []
    seen: dict[str, int] = {}
    for chunk in chunked.chunks:
        local = chunk.dictionary.to_pylist()
        index = chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if len(index) and not (0 <= index.min() and index.max() < len(local)):
            raise InputError(f"{path}: the dictionary of column {name} is damaged; write the file again")
        used = np.flatnonzero(np.bincount(index, minlength=len(local)))
        new_codes = np.full(len(local), -1, np.int64)
        for code in used.tolist():
            if local[code] is None:
                row = int(np.argmax(index == code)) + sum(map(len, codes)) + start + 1
                raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")
            new_codes[code] = seen.setdefault(str(local[code]), len(seen))
        codes.append(new_codes[index])
    column = Column(list(seen), np.concatenate(codes) if codes else np.empty(0, np.int64))
    return check_ids(path, name, column, start)


def numbers_of(path: Path, name: str, chunked: Any, start: int = 0, times: bool = True) -> np.ndarray:
    """An Arrow column of numbers or times as int64 or float64 [n]. Times are converted to microseconds.

    start: number of rows of the file before this column, for the row in messages. times: whether times are allowed.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = chunked.type
    if pa.types.is_dictionary(kind):
        chunked, kind = chunked.cast(kind.value_type), kind.value_type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        tries = [pa.timestamp("us", getattr(kind, "tz", None))]
    elif pa.types.is_integer(kind):
        tries = [pa.int64(), pa.float64()]
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        tries = [pa.float64()]
    elif is_text(kind):
        chunked = pc.utf8_trim_whitespace(chunked.cast(pa.large_string()))
        tries = [pa.int64(), pa.float64(), *([pa.timestamp("us"), pa.timestamp("us", "UTC")] if times else [])]
    else:
        tries = []
    if not tries or (not times and pa.types.is_temporal(kind)):
        raise InputError(f"{path}: column {name} has the type {kind}; it must contain numbers")
    for target in tries:
        try:
            values = chunked.cast(target, safe=not pa.types.is_temporal(target))
        except pa.ArrowInvalid:
            continue
        refuse_nulls(path, name, values, start)
        values = (values.cast(pa.int64()) if pa.types.is_temporal(target) else values).to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(f"{path}: row {start + bad[0] + 1} has the {name} {values[bad[0]]}; it must be a number")
        return values
    for row, text in enumerate(chunked.to_pylist(), start + 1):
        if text is None or not NUMBER.fullmatch(text):
            rule = "a number, or a time such as 2026-11-30T12:00:00" if times else "a number"
            raise InputError(f"{path}: row {row} has the {name} {shown(text)}; it must be {rule}")
    raise InputError(f"{path}: column {name} contains numbers above 2^63")


def matrix_of(path: Path, name: str, chunked: Any) -> np.ndarray:
    """An Arrow column of lists of the same length as an array [n, width]. A null is a missing row: NaN in floats. If
    all rows are missing, their width is not known: [n, 0]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blocks: list[np.ndarray] = []
    width, first = None, 0
    for chunk in chunked.chunks:
        there = ~np.asarray(pc.is_null(chunk))
        if width is None and there.any():
            first = int(np.argmax(there)) + sum(map(len, blocks))
            width = int(pc.list_value_length(chunk)[int(np.argmax(there))].as_py())
        lengths = pc.fill_null(pc.list_value_length(chunk), -1 if width is None else width).to_numpy()
        if width is not None and (lengths != width).any():
            row = int(np.argmax(lengths != width)) + sum(map(len, blocks)) + 1
            raise InputError(
                f"{path}: row {row} has {lengths[lengths != width][0]} values in {name}, but row {first + 1} has "
                f"{width}"
            )
        values = chunk.flatten()
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() // max(width or 1, 1) + sum(map(len, blocks)) + 1
            raise InputError(f"{path}: row {row} has an empty value in {name}; add it or remove the row")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.uint8())
        block = values.to_numpy(zero_copy_only=False).reshape(int(there.sum()), -1 if there.any() else 0)
        if not there.all():
            dtype = block.dtype if block.dtype.kind == "f" else np.float32
            block, found = np.full((len(chunk), width or 0), np.nan, dtype), block
            if there.any():
                block[there] = found
        blocks.append(block)
    if width is None:
        rows = sum(map(len, blocks))
        return np.full((rows, 0 if rows else 1), np.nan, np.float32)
    # A chunk of missing rows that comes before the first other row has no columns yet.
    return np.concatenate([b if b.shape[1] == width else np.full((len(b), width), np.nan, np.float32) for b in blocks])


def texts_of(path: Path, name: str, chunked: Any) -> list[str | None]:
    """An Arrow column of texts as a list, without surrounding white space; None for an empty cell.

    Raises InputError for another type, and for a column of numbers only, in which nothing can be read.
    """
    import pyarrow as pa

    kind = chunked.type.value_type if pa.types.is_dictionary(chunked.type) else chunked.type
    if not is_text(kind) and not pa.types.is_null(kind):
        raise InputError(f"{path}: column {name} has the type {kind}; choose a column of text")
    cells = chunked.cast(pa.large_string()).to_pylist()
    texts = [None if cell is None else cell.strip() or None for cell in cells]
    there = [text for text in texts if text is not None]
    if there and all(NUMBER.fullmatch(text) for text in there):
        raise InputError(f"{path}: column {name} contains numbers only, such as {shown(there[0])}; choose one of text")
    return texts


def refuse_nulls(path: Path, name: str, chunked: Any, start: int = 0) -> None:
    """Raise InputError, with the row, for an empty cell."""
    import pyarrow.compute as pc

    if chunked.null_count:
        row = pc.index(pc.is_null(chunked), True).as_py() + start + 1
        raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")


def is_text(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def is_vector(field: Any) -> bool:
    from pyarrow import types

    kind = field.type
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    inner = kind.value_type if listed else None
    return listed and (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner))


def is_integer(path: Path, name: str, kind: Any) -> bool:
    """Whether a column of ids has an integer type (otherwise text). Raises InputError if it has another type."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(kind) or is_text(kind):
        return types.is_integer(kind)
    advice = ""
    if types.is_floating(kind):
        advice = ", not floats; convert the column with astype('int64')"
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        advice = ", one per row; mmssl-fast data convert expands lists"
    elif types.is_decimal(kind):  # also HUGEINT, which DuckDB's sum returns
        advice = ", not decimals; cast the column to BIGINT or VARCHAR"
    raise InputError(f"{path}: column {name} has the type {kind}; ids and splits must be integers or text{advice}")
