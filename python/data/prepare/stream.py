"""Reading an interaction table in Parquet, in one file or many parts, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ..arrow import LONGEST_ID, check_ids, column_of, is_integer, is_text, numbers_of, pyarrow, refuse_nulls
from ..arrow import Column as TextColumn
from ..interactions import naming_options, needed_numbers, quantities, refuse_missing_numbers
from ..options import LoadOptions
from ..tables import BUFFER, missing_column, plain_texts, unreadable

_BATCH, _PLAIN_BATCH = 1 << 20, 1 << 16  # rows that are decoded at once; fewer without a dictionary


class Encoded(NamedTuple):
    """A column of ids. values: its distinct ids, Arrow int64 or large_string. codes: the index into them, by row."""

    values: Any
    codes: np.ndarray


class Batch(NamedTuple):
    """Consecutive rows of a part. start: number of rows before them. keep: rows with a sufficient rating, or None for
    all. split and times are None if they are not read."""

    path: Path
    start: int
    rows: int
    users: Encoded
    items: Encoded
    split: Encoded | None
    times: np.ndarray | None
    keep: np.ndarray | None


class _Part(NamedTuple):
    path: Path
    keys: dict[str, str]
    rows: int
    names: list[str]
    plain: bool
    texts: list[str]


class Table:
    """The parts of a Parquet table as an iterable of Batches, which can be iterated over several times.

    parts: [(path, {column: value in the folder name})]. Raises InputError for a part that lacks a column, and for a
    rating or timestamp that has to be parsed as text.

    integers: whether all ids of {"user", "item"} are integers below 2^63; otherwise they are read as text. times: dtype
    of the timestamps, or None. has_split: whether the split column is read. unread: names of the other columns.
    """

    def __init__(self, path: Path, parts: list[tuple[Path, dict[str, str]]], options: LoadOptions) -> None:
        self.path, self.options = path, options
        self._options = naming_options(options.user_column, options.item_column, options.split_column)
        self.columns = {options.user_column: "user", options.item_column: "item"}
        self.integers = {"user": True, "item": True}
        self.numbers = needed_numbers(options)
        self.unread: dict[str, None] = {}
        self._labelled: list[bool] = []
        self._floats = False
        self.parts = [self._open(part, keys) for part, keys in parts]
        self.has_split = any(self._labelled)
        if self.has_split and not all(self._labelled):
            raise InputError(f"{path}: some parts have no column {options.split_column}; write them again")
        if options.split == "auto" and options.split_column != "split" and not self.has_split:
            names = self.parts[0].names + list(self.parts[0].keys)
            raise InputError(f"{self.parts[0].path}: {missing_column(options.split_column, names, self._options)}")
        has_times = options.split in ("time", "last")
        self.times = (np.float64 if self._floats else np.int64) if has_times else None
        self.rows = sum(part.rows for part in self.parts)

    def _open(self, path: Path, keys: dict[str, str]) -> _Part:
        with _readable(path) as parquet, parquet.ParquetFile(path, buffer_size=BUFFER) as file:
            schema, metadata = file.schema_arrow, file.metadata
            names = list(schema.names)
            for name in self.columns:
                if name not in names and name not in keys:
                    raise InputError(f"{path}: {missing_column(name, [*names, *keys], self._options)}")
            split = self.options.split_column if self.options.split == "auto" else None
            wanted = dict.fromkeys((*self.columns, *([split] if split else ()), *self.numbers))
            read = [name for name in wanted if name in names or name in keys]
            for name in read:
                if names.count(name) > 1:
                    raise InputError(f"{path}: has {names.count(name)} columns named {name}; keep only one")
                if name in names and name in keys:
                    raise InputError(f"{path}: has the column {name} in the file and in the folder name; keep only one")
            self.unread |= dict.fromkeys(name for name in [*names, *keys] if name not in read)
            for name in self.numbers:
                self._check_number(path, name, names, schema)
            texts = []
            for name in read:
                if name in self.numbers or not metadata.num_rows:
                    continue
                side = self.columns.get(name)
                if name in keys or not is_integer(path, name, schema.field(name).type):
                    if side:
                        self.integers[side] = False
                    if name not in keys:
                        texts.append(name)
                elif side and "uint64" in str(schema.field(name).type):
                    self.integers[side] = False
            self._labelled.append(split in read)
            plain = plain_texts(path, file, texts)
            return _Part(path, keys, metadata.num_rows, [n for n in read if n in names], bool(plain), texts)

    def _check_number(self, path: Path, name: str, names: list[str], schema: Any) -> None:
        if name not in names:
            refuse_missing_numbers(path, name, self.options)
        kind = schema.field(name).type
        kind = getattr(kind, "value_type", kind)
        if is_text(kind):
            raise InputError(
                f"{path}: column {name} contains text, which cannot be read in batches; write it as a number or a time"
            )
        floating = not any(word in str(kind) for word in ("int", "date", "timestamp"))
        self._floats |= name == self.options.time_column and floating

    def __iter__(self) -> Iterator[Batch]:
        for part in self.parts:
            if part.rows:
                yield from self._batches(part)

    def _batches(self, part: _Part) -> Iterator[Batch]:
        import pyarrow as pa

        if not part.names:  # users and items are folder names
            yield self._batch(part, 0, part.rows, {})
            return
        start = 0
        with _readable(part.path) as parquet:
            read_dictionary = [] if part.plain else part.texts
            with parquet.ParquetFile(part.path, read_dictionary=read_dictionary, buffer_size=BUFFER) as file:
                size = _PLAIN_BATCH if part.plain else _BATCH
                for batch in file.iter_batches(size, columns=part.names, use_threads=False):
                    rows = batch.num_rows
                    columns = {name: pa.chunked_array([batch.column(name)]) for name in part.names}
                    for column in columns.values():
                        column.validate()
                    yield self._batch(part, start, rows, columns)
                    start += rows
        if start != part.rows:
            raise InputError(f"{part.path}: declares {part.rows} rows, but contains {start}; write it again")

    def _batch(self, part: _Part, start: int, rows: int, columns: dict[str, Any]) -> Batch:
        split = self.options.split_column if self.has_split else None
        encoded = {}
        for name, side in (self.columns | ({split: "split"} if split else {})).items():
            if name in part.keys:
                encoded[side] = _constant(part, name, rows)
            else:
                encoded[side] = _encoded(part.path, name, columns[name], start, self.integers.get(side, False))
        untimed = quantities(self.options)
        numbers = {
            name: numbers_of(part.path, name, columns[name], start, name not in untimed) for name in self.numbers
        }
        keep = None
        if self.options.min_rating is not None:
            keep = numbers[self.options.rating_column] >= self.options.min_rating
        times = numbers[self.options.time_column] if self.times else None
        if times is not None and times.dtype != self.times:
            if self.times is np.int64:
                raise InputError(f"{part.path}: column {self.options.time_column} contains numbers above 2^63")
            times = times.astype(self.times)
        return Batch(part.path, start, rows, encoded["user"], encoded["item"], encoded.get("split"), times, keep)


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    """The module pyarrow.parquet. Errors of reading become InputErrors that name the file."""
    pa = pyarrow()
    from pyarrow import parquet

    try:
        yield parquet
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        raise unreadable(path, error) from None


def _constant(part: _Part, name: str, rows: int) -> Encoded:
    import pyarrow as pa

    check_ids(part.path, name, TextColumn([part.keys[name]], np.zeros(1, np.int64)))
    return Encoded(pa.array([part.keys[name]], pa.large_string()), np.zeros(rows, np.int64))


def _encoded(path: Path, name: str, column: Any, start: int, integers: bool) -> Encoded:
    """The Encoded of an Arrow column, with the checks of arrow.column_of."""
    import pyarrow as pa
    import pyarrow.compute as pc

    refuse_nulls(path, name, column, start)
    if integers:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        chunk = column.cast(pa.int64()).dictionary_encode().combine_chunks()
        chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
        return Encoded(chunk.dictionary, chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64))
    if not pa.types.is_dictionary(column.type):
        if not is_text(column.type):
            column = column.cast(pa.large_string())
        column = column.dictionary_encode()
    if column.num_chunks == 1:
        texts, codes = column.chunk(0).dictionary, column.chunk(0).indices.to_numpy(zero_copy_only=False)
        within = len(codes) == 0 or (codes.min() >= 0 and codes.max() < len(texts))
        if within and is_text(texts.type) and _valid(texts):
            used = np.bincount(codes, minlength=len(texts)) > 0
            values = texts.cast(pa.large_string()).filter(pa.array(used))
            if pc.count_distinct(values).as_py() == len(values):
                return Encoded(values, (np.cumsum(used) - 1)[codes])
    found = column_of(path, name, column, start)  # names the row of the first invalid id
    return Encoded(pa.array(found.texts, pa.large_string()), found.codes)


def _valid(texts: Any) -> bool:
    """Whether every text is an id: not null, not empty, printable UTF-8, and not too long."""
    import pyarrow.compute as pc

    if texts.null_count or not len(texts):
        return False
    texts.validate(full=True)
    lengths = pc.min_max(pc.utf8_length(texts)).as_py()
    if lengths["min"] < 1 or lengths["max"] > LONGEST_ID:
        return False
    return not pc.any(pc.match_substring_regex(texts, r"[\x00-\x1f\x7f]")).as_py()
