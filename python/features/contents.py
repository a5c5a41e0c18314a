"""Reading raw contents: a column of a table, or a folder of files, each with the id of its item."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.arrow import Column, check_ids
from ..data.files import check_named, read_text, reason
from ..data.ids import check_distinct
from ..data.options import separator_of
from ..data.sql import database_kind, refuse_without_query
from ..data.tables import read_table
from ..errors import InputError, shown
from .encoders import Unusable

BETWEEN = ". "  # between the texts of several columns
# A language model knows lists with commas: with "Action, Sci-Fi" for "Action|Sci-Fi" it found more cold films.
BARS, COMMA = re.compile(r"\s*\|\s*"), ", "


class Contents(NamedTuple):
    """ids: of the items, all different. values: the text or path of each; None if it has none, Unusable for a file
    that may not be read. fingerprint: sha256 over the ids and values, and over size and time of each file."""

    ids: list[str]
    values: Sequence[str | Path | Unusable | None]
    fingerprint: str


class Where(NamedTuple):
    """Where the contents are.

    source: a table or a DuckDB or SQLite database, or without columns a folder of files, whose ids are their names
    without the last extension. columns: with the texts, or one column with the paths of files relative to root
    (default: the folder of the table). item_column: with the ids. sep: separator of a text table. query:
    SELECT statement for a database.
    """

    source: Path
    columns: Sequence[str] = ()
    item_column: str = "item"
    root: Path | None = None
    sep: str = ""
    query: str = ""


def read_contents(where: Where, files: bool) -> Contents:
    """The contents. files: whether a column contains paths of files rather than texts.

    Raises InputError for a table or column that cannot be read, an id that occurs twice, and a source without items.
    """
    check_named(where.source)
    if where.columns:
        return _of_table(where, files)
    if not where.source.is_dir():
        if database_kind(where.source):
            refuse_without_query(where.source)
        raise InputError(
            f"{where.source}: is a table; give the column to read with --column"
            if not files
            else f"{where.source}: is a file; give a folder of files, or a table and its column of paths with --column"
        )
    return _of_folder(where, files)


def _of_table(where: Where, files: bool) -> Contents:
    path, item, columns = where.source, where.item_column, list(where.columns)
    if files and len(columns) > 1:
        raise InputError(f"{path}: {len(columns)} columns of paths are given; give one")
    for column in columns:
        if columns.count(column) > 1:
            raise InputError(f"{path}: the column {shown(column)} is given twice; give it once")
    if item in columns:
        raise InputError(f"{path}: {shown(item)} is the column of the ids; choose another column, or --item-column")
    if database_kind(path) and not where.query:
        refuse_without_query(path)
    options = {item: "--item-column"} | dict.fromkeys(columns, "--column")
    table = read_table(
        path, [item], separator=separator_of(where.sep) or None, query=where.query, texts=columns, options=options
    )
    check_distinct(path, item, table[item])
    if not table.rows:
        raise InputError(f"{path}: contains no rows")
    ids = [table[item].texts[code] for code in table[item].codes.tolist()]
    texts = [
        BETWEEN.join(parts) or None
        for parts in (
            [text if files else BARS.sub(COMMA, text) for text in row if text is not None]
            for row in zip(*(table.texts[name] for name in columns), strict=True)
        )
    ]
    if not files:
        return Contents(ids, texts, _fingerprint(ids, texts))
    root = where.root if where.root is not None else path.parent
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder of the files with --root")
    values = [None if text is None else _inside(root, text) for text in texts]
    return Contents(ids, values, _fingerprint(ids, texts, values))


def _of_folder(where: Where, files: bool) -> Contents:
    root, names = where.source, []
    for option, given in (("root", where.root), ("sep", where.sep), ("query", where.query)):
        if given:
            raise InputError(f"{option} = {shown(str(given))}: is for a table, but {root} is a folder of files")
    for folder, folders, found in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        names += [str(relative / name) for name in sorted(found) if not name.startswith(".")]
    if not names:
        raise InputError(f"{root}: contains no files")
    owner: dict[str, str] = {}
    for name in names:
        item = Path(name).stem
        if item in owner:
            raise InputError(
                f"{root}: {owner[item]} and {name} have the same id {shown(item)}; rename one, or give a table with "
                "ids and paths"
            )
        owner[item] = name
    ids = list(owner)
    check_ids(root, "file name", Column.of(ids))
    paths = [_inside(root, name) for name in names]
    fingerprint = _fingerprint(ids, names, paths)
    return Contents(ids, paths if files else [_text_of(path) for path in paths], fingerprint)


def _text_of(path: Path | Unusable) -> str | Unusable | None:
    if isinstance(path, Unusable):
        return path
    try:
        return read_text(path).strip() or None
    except InputError as error:
        return Unusable(str(error).removeprefix(f"{path}: "))


def _inside(root: Path, name: str) -> Path | Unusable:
    """The path of a file in the folder `root`, or Unusable if it is none, or is a link or path to outside of it."""
    try:
        path = root / name
        real, whole = path.resolve(), root.resolve()
        if not real.is_relative_to(whole):
            return Unusable(f"{shown(name)} is outside of the folder {root}")
        if not real.exists():
            return Unusable(f"{shown(name)}: no such file")
        if not real.is_file():
            return Unusable(f"{shown(name)} is not a regular file")
        return path
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long or contains NUL, a loop of links
        return Unusable(f"{shown(name)} cannot be read ({reason(error)})")


def _fingerprint(ids: Sequence[str], texts: Sequence[str | None], paths: Sequence[object] = ()) -> str:
    digest = hashlib.sha256(f"mmssl contents 1 {len(ids)}".encode())
    for item, text in zip(ids, texts, strict=True):
        for part in (item, text):
            raw = b"" if part is None else part.encode("utf-8", "surrogatepass")
            digest.update(f" {-1 if part is None else len(raw)} ".encode() + raw)
    for path in paths:
        if isinstance(path, Path):
            status = path.stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
