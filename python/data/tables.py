"""Reading tables from CSV, TSV and Parquet, as one file or in parts. Ids are read as text."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, shown
from .arrow import (
    LONGEST_ID,
    NUMBER,
    Column,
    check_ids,
    column_of,
    is_integer,
    is_vector,
    matrix_of,
    numbers_of,
    pyarrow,
    texts_of,
)
from .files import check_gzip, other_format, parts_of
from .names import legible, standard_names
from .sql import query_result

_ROW = re.compile(r"Row #([0-9]{1,18})")
_QUOTED = re.compile('"[^"]*"')
_BLOCK = 1 << 24  # bytes of text that are parsed at once
BUFFER = 1 << 20  # bytes of a column of a Parquet file that are read ahead
_BATCH = 4096  # rows that are decoded at once where no dictionary limits their memory
# A Parquet file that declares more than this is refused, because a small file could otherwise fill the memory.
_ROWS_PER_BYTE, _EXPANSION, _SMALL = 64, 200, 1 << 26
SEPARATORS = ",\t;|"  # of text tables


class Table(dict[str, Column]):
    """{name: Column} for the columns of ids. numbers: {name: int64 or float64 [n]} for the columns of numbers. vectors:
    {name: [n, width]} for the columns of lists of numbers. texts: {name: list of n texts, None for an empty cell}.
    unread: names of the other columns. rows: n."""

    def __init__(
        self,
        columns: dict[str, Column],
        numbers: dict[str, np.ndarray],
        vectors: dict[str, np.ndarray],
        unread: list[str],
        rows: int,
        texts: dict[str, list[str | None]] | None = None,
    ) -> None:
        super().__init__(columns)
        self.numbers, self.vectors, self.unread, self.rows = numbers, vectors, unread, rows
        self.texts = texts or {}

    def where(self, mask: np.ndarray) -> Table:
        """The rows where mask, bool [n], is true."""
        columns = {name: column.rows(mask) for name, column in self.items()}
        numbers = {name: values[mask] for name, values in self.numbers.items()}
        vectors = {name: values[mask] for name, values in self.vectors.items()}
        texts = {name: [values[row] for row in np.flatnonzero(mask)] for name, values in self.texts.items()}
        return Table(columns, numbers, vectors, self.unread, int(mask.sum()), texts)


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    separator: str | None = None,
    numbers: Sequence[str] = (),
    vectors: bool = False,
    query: str = "",
    texts: Sequence[str] = (),
    untimed: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Table:
    """Read a table: the required columns, and those of `optional` and `numbers` that it has.

    path: a file, or a folder of parts (files.parts_of), in which folder names may contain columns. A .parquet file is
    read as Parquet, any other file as text with a header line, decompressed if its name ends in .gz. The separator of a
    text file is `separator`, or the first of comma, tab, semicolon and bar with which the header contains the required
    columns. Empty lines are skipped. Id columns in Parquet may be integers or any text type of Arrow,
    dictionary-encoded or not. numbers: names of the columns to read as numbers. vectors: also read all Parquet columns
    of lists of numbers. query: read the result of this query to the database `path` (sql.query_result). texts: names of
    the columns to read as texts of any length, which must be there; a cell may be empty, and contain line breaks.
    untimed: those of `numbers` that must not be times. options: {name: option of the command line that names it}, for
    the message about a missing column.

    Raises InputError, with file, column and row, for a missing column, an empty cell, an id with more than 200
    characters or with control characters, an unsupported type, a line with a wrong number of fields, text that is not
    UTF-8, and a header that declares far more data than the file can contain.
    """
    wanted = _Wanted(list(required), list(optional), list(numbers), vectors, list(texts), list(untimed), options or {})
    parts = [_read_part(part, keys, wanted, separator, query) for part, keys in parts_of(path)]
    return parts[0] if len(parts) == 1 else _joined(path, parts, wanted)


def column_names(path: Path) -> list[str]:
    """The column names of a table in order; those from folder names come last."""
    pa = pyarrow()
    part, keys = parts_of(path)[0]
    try:
        if part.suffix == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(part) as file:
                return [*file.schema_arrow.names, *keys]
        header = first_line(part)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{part}: is not a readable table ({shown(str(error), 160)}); write it again") from None
    return [*split_header(header, likely_separator(header)), *keys]


def first_line(path: Path) -> str:
    """The first line of a text table, without a byte order mark."""
    import gzip

    if (what := other_format(path.name)) is not None:
        raise InputError(f"{path}: is {what}")
    if path.name.endswith(".gz"):
        check_gzip(path)
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        line = file.readline(_BLOCK)
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    if b"\0" in line:
        raise InputError(f"{path}: is not UTF-8 text; write it as CSV or Parquet")
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def split_header(line: str, separator: str) -> list[str]:
    """The fields of a header line, as pyarrow reads them (`quote_of`). A separator of several characters, which pyarrow
    does not know, is never within quotes."""
    if '"' not in line or not quote_of(separator):
        return line.split(separator)
    if len(separator) > 1:
        return [name.strip('"') for name in line.split(separator)]
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:  # a field of more than 128 KiB
        return [line]


def likely_separator(line: str) -> str:
    """The one of SEPARATORS that occurs most often in a header line, names in quotation marks apart."""
    return max(SEPARATORS, key=_QUOTED.sub("", line).count)


def quote_of(separator: str) -> str | bool:
    """The quotation mark around fields of a text table, False for none: tables with tabs have titles such as "Heat" (a
    film), in which the marks belong to the text."""
    return '"' if separator != "\t" else False


class _Wanted(NamedTuple):
    required: list[str]
    optional: list[str]
    numbers: list[str]
    vectors: bool
    texts: list[str]
    untimed: list[str]
    options: Mapping[str, str]

    def numbers_of(self, path: Path, name: str, chunked: Any) -> np.ndarray:
        return numbers_of(path, name, chunked, times=name not in self.untimed)

    def ids(self, names: Iterable[str]) -> list[str]:
        """Those of these columns that contain ids."""
        return [name for name in names if name not in self.numbers and name not in self.texts]


def _read_part(path: Path, keys: dict[str, str], wanted: _Wanted, separator: str | None, query: str) -> Table:
    pa = pyarrow()
    try:
        if query:
            table, lists, names = _read_query(path, wanted, query)
        elif path.suffix == ".parquet":
            table, lists, names = _read_parquet(path, wanted, keys)
        else:
            table, lists, names = _read_text(path, wanted, keys, separator)
        table.validate()
        columns = {
            name: column_of(path, name, table.column(name))
            for name in table.column_names
            if name in wanted.required + wanted.optional
        }
        numbers = {name: wanted.numbers_of(path, name, table.column(name)) for name in wanted.numbers if name in names}
        vectors = {name: matrix_of(path, name, table.column(name)) for name in lists}
        texts = {name: texts_of(path, name, table.column(name)) for name in wanted.texts}
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        raise unreadable(path, error) from None
    for name, value in keys.items():
        if name in wanted.required + wanted.optional:
            columns[name] = check_ids(path, name, Column([value], np.zeros(table.num_rows, np.int64)))
        elif name in wanted.numbers:
            repeated = pa.chunked_array([pa.array([value] * table.num_rows, pa.string())])
            numbers[name] = wanted.numbers_of(path, name, repeated)
    used = {*columns, *numbers, *vectors, *texts}
    unread = [name for name in [*names, *keys] if name not in used]
    return Table(columns, numbers, vectors, unread, table.num_rows, texts)


def unreadable(path: Path, error: Exception) -> InputError:
    """The InputError for a table that pyarrow cannot read."""
    if "more than 64 bits" in str(error):
        return InputError(
            f"{path}: contains integers of 128 bits, which Arrow does not support; write ids as Int64 or text"
        )
    reason = _ROW.sub(lambda match: f"row {int(match[1]) - 1}", str(error))  # pyarrow counts the header as a row
    return InputError(f"{path}: is not a readable table ({shown(reason, 160)}); write it again")


def _read_text(
    path: Path, wanted: _Wanted, keys: dict[str, str], separator: str | None
) -> tuple[Any, list[str], list[str]]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = first_line(path)
    all_names, separator = _header(path, header, wanted, keys, separator)
    names = [name for name in _chosen(path, all_names, wanted, keys) if name not in keys]
    ids = wanted.ids(names)
    if path.name.endswith(".gz"):
        check_gzip(path)
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=arrow_csv.ParseOptions(
            delimiter=separator,
            quote_char=quote_of(separator),
            newlines_in_values=bool(wanted.texts) and separator != "\t",
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=names,
            column_types={
                name: pa.dictionary(pa.int32(), pa.string()) if name in ids else pa.string() for name in names
            },
            strings_can_be_null=False,
            auto_dict_encode=False,
        ),
    )
    return table, [], all_names


def _header(
    path: Path, line: str, wanted: _Wanted, keys: dict[str, str], separator: str | None
) -> tuple[list[str], str]:
    """(column names, separator) from the first line of a text table."""
    separators = [separator] if separator else ["\t" if ".tsv" in path.name else ",", *SEPARATORS]
    needed = [name for name in wanted.required if name not in keys]
    for candidate in separators:
        names = split_header(line, candidate)
        if all(name in names for name in needed):
            return names, candidate
    best = separators[0] if separators[0] in line else likely_separator(line)
    return split_header(line, best), best


def _read_query(path: Path, wanted: _Wanted, query: str) -> tuple[Any, list[str], list[str]]:
    import pyarrow as pa

    with query_result(path, query) as reader:
        names = _chosen(path, reader.schema.names, wanted, {})
        ids = wanted.ids(names)
        texts = [name for name in ids if not is_integer(path, name, reader.schema.field(name).type)]
        batches = []
        for batch in reader:
            columns = {name: batch.column(name) for name in names}
            columns |= {name: columns[name].dictionary_encode() for name in texts}
            batches.append(pa.table(columns))
        table = pa.concat_tables(batches) if batches else reader.schema.empty_table().select(names)
    return table, [], reader.schema.names


def _read_parquet(path: Path, wanted: _Wanted, keys: dict[str, str]) -> tuple[Any, list[str], list[str]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=BUFFER) as file:
        schema = file.schema_arrow
        all_names = schema.names
        names = [name for name in _chosen(path, all_names, wanted, keys) if name not in keys]
        ids = wanted.ids(names)
        texts = [name for name in ids if not is_integer(path, name, schema.field(name).type)]
        remaining = [name for name in all_names if wanted.vectors and name not in names]
        vectors = [name for name in remaining if is_vector(schema.field(name))]
        plain = plain_texts(path, file, texts)
    # Columns in `plain` are read in batches, each of which is dictionary-encoded at once.
    with parquet.ParquetFile(path, read_dictionary=[name for name in texts if name not in plain]) as file:
        table = file.read(columns=[name for name in names + vectors if name not in plain], use_threads=False)
        for name in plain:
            chunks = []
            for batch in file.iter_batches(_BATCH, columns=[name], use_threads=False):
                chunks.append(batch.column(0).cast(pa.large_string()).dictionary_encode())
                if (pc.max(pc.utf8_length(chunks[-1].dictionary)).as_py() or 0) > LONGEST_ID:
                    column_of(path, name, pa.chunked_array(chunks))  # raises InputError before more is decoded
            columns = dict(zip(table.column_names, table.columns, strict=True))
            table = pa.table({**columns, name: pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.large_string()))})
    return table, vectors, all_names


def plain_texts(path: Path, file: Any, texts: list[str]) -> list[str]:
    """The columns among `texts` that Arrow cannot decode into a dictionary, only into plain text with a copy per row:
    those with a DELTA encoding. Raises InputError if the file declares far more data than it can contain.

    file: the pyarrow.parquet.ParquetFile, with a buffer_size, so that a first row is read without the whole column.
    """
    metadata = file.metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    size = path.stat().st_size
    rows, declared = metadata.num_rows, sum(group.total_byte_size for group in groups)
    if rows < 0 or rows > _ROWS_PER_BYTE * size or declared < 0 or declared > max(_SMALL, _EXPANSION * size):
        raise InputError(f"{path}: declares {rows} rows and {declared} bytes in a file of {size} bytes; write it again")
    leaves = {metadata.schema.column(leaf).path: leaf for leaf in range(metadata.num_columns)}
    plain = []
    for name in texts:
        encodings: set[str] = set()
        for number, group in enumerate(groups if name in leaves else ()):
            if not group.num_rows:
                continue
            # With pyarrow 26.0.1, the process is aborted when Python looks at the metadata of a column chunk and they
            # are damaged. To read from the chunk raises an error instead.
            next(file.iter_batches(1, row_groups=[number], columns=[name], use_threads=False), None)
            encodings.update(group.column(leaves[name]).encodings)
        if any("DELTA" in encoding for encoding in encodings):
            plain.append(name)
    return plain


def _chosen(path: Path, all_names: list[str], wanted: _Wanted, keys: dict[str, str]) -> list[str]:
    """The names of the columns to read. Raises InputError for a missing or ambiguous column."""
    for name in wanted.required + wanted.texts:
        if name not in all_names and (name not in keys or name in wanted.texts):
            raise InputError(f"{path}: {missing_column(name, all_names, wanted.options)}")
    names = [name for name in wanted.optional + wanted.numbers if name in all_names or name in keys]
    names = list(dict.fromkeys(wanted.required + wanted.texts + names))
    for name in names:
        if all_names.count(name) > 1:
            raise InputError(f"{path}: has {all_names.count(name)} columns named {name}; keep only one")
        if name in all_names and name in keys:
            raise InputError(f"{path}: has the column {name} in the file and in the folder name; keep only one")
    return names


def missing_column(name: str, all_names: list[str], options: Mapping[str, str]) -> str:
    """What to say of a table without the column `name`. options: {name: option of the command line that names it}."""
    listed = shown(", ".join(legible(name) for name in all_names[:12]), 120)[1:-1]
    if any(NUMBER.fullmatch(field) for field in all_names):
        return (
            f"its first line {listed!r} is data, not a header; add a header such as user,item,rating, or use "
            "mmssl-fast data convert"
        )
    what = f"has no column {name}; its columns are {listed}"
    if name not in options:
        return f"{what}; rename one of them"
    meanings = standard_names(all_names)
    if "user" in meanings and "item" in meanings and options[name] in ("--user-column", "--item-column"):
        user, item = (shlex.quote(shown(meanings[side])[1:-1]) for side in ("user", "item"))
        return f"{what}; give --user-column {user} --item-column {item}"
    return f"{what}; give one of them with {options[name]}"


def _joined(path: Path, parts: list[Table], wanted: _Wanted) -> Table:
    """The parts of a table as one Table."""
    columns = {}
    numbers: dict[str, np.ndarray] = {}
    vectors: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        if any(name not in part for part in parts):
            raise InputError(f"{path}: some parts have no column {name}; write them again")
        columns[name] = Column.concatenated([part[name] for part in parts])
    for target, kind in ((numbers, "numbers"), (vectors, "vectors")):
        for name in dict.fromkeys(name for part in parts for name in getattr(part, kind)):
            blocks = [getattr(part, kind).get(name) for part in parts if part.rows or name in getattr(part, kind)]
            if any(block is None for block in blocks):
                raise InputError(f"{path}: some parts have no column {name}; write them again")
            if len({block.shape[1:] for block in blocks}) > 1:
                raise InputError(f"{path}: its parts have lists of different lengths in {name}; write them again")
            target[name] = np.concatenate(blocks)
    texts = {name: [text for part in parts for text in part.texts[name]] for name in wanted.texts}
    unread = list(dict.fromkeys(name for part in parts for name in part.unread))
    return Table(columns, numbers, vectors, unread, sum(part.rows for part in parts), texts)
