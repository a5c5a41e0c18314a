"""Interaction tables with other file and column names: ratings.csv, u.data and ratings.dat of MovieLens, ratings of
Amazon without a header, and Parquet with one list of items per row as on Hugging Face."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, shown
from ..arrow import NUMBER, Column, column_of, numbers_of, pyarrow
from ..files import TABLE_ENDS, read_text
from ..layouts.plain import LABELS
from ..names import standard_names
from ..tables import column_names, first_line, split_header
from .columns import joined, known_columns, read_columns
from .items import OTHERS, add_items
from .source import Columns, Source, feature_paths

NAME = "tables"
TITLE = "a table of interactions under other names"
ENDS = (*TABLE_ENDS, ".dat", ".data", ".txt")
_SPLIT = re.compile(r"(train|valid|validation|val|dev|test)(?=[-_.0-9])")
_ASIN = re.compile(r"[0-9A-Z]{10}")
_SEPARATORS = ("::", "\t", ",", ";", "|", " ")


def fits(folder: Path) -> bool:
    """Whether the folder contains a single table with users and items, or one table per split."""
    try:
        return bool(_parts(folder))
    except InputError:
        return False


def find(folder: Path) -> Path:
    """The only table in a folder. Raises InputError if there are several."""
    parts = _parts(folder, False)
    if len(parts) != 1:
        listed = ", ".join(path.name for _, path in parts[:8]) or "none"
        raise InputError(f"{folder}: has {len(parts)} tables ({shown(listed, 120)}); give the file itself")
    return parts[0][1]


def read(folder: Path) -> Source:
    """Read the tables in a folder as a Source. File names such as train.csv give the split."""
    parts = _parts(folder)
    groups: dict[str | None, list[Path]] = {}
    for split, path in parts:
        groups.setdefault(split, []).append(path)
    source = joined([(split, _table(path)) for split, paths in groups.items() for path in paths])
    source.copied = feature_paths(folder)
    add_items(source, parts[0][1].parent)
    return source


def read_file(path: Path, user: str | None = None, item: str | None = None) -> Source:
    """Read one table as a Source."""
    return joined([(None, _table(path, user, item))])


def _parts(folder: Path, recognised_only: bool = True) -> list[tuple[str | None, Path]]:
    """[(split or None, path)] of the tables in the folder, or else in its subfolder data.

    recognised_only: whether to skip tables whose columns of users and items are not recognised.
    """
    for candidate in (folder, folder / "data"):
        if not candidate.is_dir():
            continue
        paths = [
            path
            for path in sorted(candidate.iterdir())
            if path.is_file()
            and path.name.endswith(ENDS)
            and not path.name.startswith((".", "_"))
            and not OTHERS.match(path.name)
        ]
        paths = [path for path in paths if not recognised_only or _is_table(path)]
        matches = [(match, path) for path in paths if (match := _SPLIT.match(path.name))]
        if paths and len(matches) == len(paths):
            return [(LABELS.get(match[1], "val"), path) for match, path in matches]
        if paths:
            if recognised_only and len(paths) > 1:
                listed = ", ".join(path.name for path in paths[:8])
                raise InputError(f"{folder}: has {len(paths)} tables ({shown(listed, 120)}); give the file itself")
            return [(None, path) for path in paths]
    return []


def _is_table(path: Path) -> bool:
    """Whether a file has recognised columns of users and items, or data in known positions without a header."""
    if path.suffix == ".parquet":
        return {"user", "item"} <= set(standard_names(column_names(path)))
    header = first_line(path)
    fields = split_header(header, _separator(header))
    if {"user", "item"} <= set(standard_names(fields)):
        return True
    return _positional(fields) and not (path.suffix == ".txt" and _separator(header) == " ")


def _positional(fields: list[str]) -> bool:
    """Whether the first line is not a header but data: user, item, rating and possibly a timestamp."""
    return 3 <= len(fields) <= 4 and all(NUMBER.fullmatch(field) for field in fields[2:])


def _separator(line: str) -> str:
    return next((separator for separator in _SEPARATORS if separator in line), ",")


def _table(path: Path, user: str | None = None, item: str | None = None) -> Columns:
    """Read a table of any kind. The result is that of read_columns."""
    if path.suffix == ".parquet":
        return _parquet(path, user, item)
    header = first_line(path)
    separator = _separator(header)
    fields = split_header(header, separator)
    if _positional(fields) and not (user or item):
        return _without_header(path, separator, len(fields))
    return read_columns(path, user, item)


def _without_header(path: Path, separator: str, width: int) -> Columns:
    """Read a table without a header: user, item, rating and possibly timestamp. Newer files of Amazon start with the
    item."""
    pa = pyarrow()
    from pyarrow import csv

    text = read_text(path)
    if len(separator) > 1:
        text, separator = text.replace(separator, "\t"), "\t"
    names = ["user", "item", "rating", "timestamp"][:width]
    try:
        table = csv.read_csv(
            io.BytesIO(text.encode()),
            csv.ReadOptions(column_names=names, use_threads=False),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowException as error:
        raise InputError(f"{path}: is not a readable table ({shown(str(error), 160)}); write it again") from None
    users, items = (column_of(path, name, table.column(name)) for name in ("user", "item"))
    if _all_asins(users) and not _all_asins(items):
        users, items = items, users
    numbers = {name: numbers_of(path, name, table.column(name)) for name in names[2:]}
    return users, items, numbers, None, []


def _all_asins(column: Column) -> bool:
    return bool(column.texts) and all(_ASIN.fullmatch(text) for text in column.texts)


def _parquet(path: Path, user: str | None, item: str | None) -> Columns:
    """Read a Parquet table. Rows with a list of items are expanded to one row per item."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    columns = known_columns(path, user, item)
    with parquet.ParquetFile(path) as file:
        if not _is_list(file.schema_arrow.field(columns["item"]).type):
            return read_columns(path, user, item)
        columns = {name: column for name, column in columns.items() if name != "split"}
        table = file.read(columns=list(columns.values()), use_threads=False).combine_chunks()
    lists = table.column(columns["item"]).combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    parents, lengths = pc.list_parent_indices(lists), pc.list_value_length(lists)
    users = column_of(path, columns["user"], table.column(columns["user"]))
    users = users.rows(parents.to_numpy(zero_copy_only=False))
    items = column_of(path, columns["item"], pa.chunked_array([pc.list_flatten(lists)]))
    numbers: dict[str, np.ndarray] = {}
    for name in ("rating", "timestamp"):
        if name not in columns:
            continue
        values = table.column(columns[name]).combine_chunks()
        values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
        if not _is_list(values.type):
            values = values.take(parents)
        elif not pc.list_value_length(values).equals(lengths):
            raise InputError(f"{path}: the lists of {columns[name]} and {columns['item']} have different lengths")
        else:
            values = pc.list_flatten(values)
        numbers[name] = numbers_of(path, name, pa.chunked_array([values]))
    unread = [name for name in column_names(path) if name not in columns.values()]
    return users, items, numbers, None, unread


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
