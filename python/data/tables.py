"""Interaction tables from CSV, TSV and Parquet, every id read as the text it is."""

import re
from typing import NamedTuple

import numpy as np

from ..errors import InputError, install_command, shown
from .files import existing_file

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")
_ROW = re.compile(r"Row #([0-9]{1,18})")
_LONGEST_ID = 200
_BLOCK = 1 << 24
_ROWS_A_BYTE = 64
_EXPANSION = 200
_SMALL = 1 << 26


class Column(NamedTuple):
    """A table's column: row r holds texts[codes[r]]; texts distinct, none empty. Rows are counted from 1 in
    messages."""

    texts: list[str]
    codes: np.ndarray

    def row_of(self, code):
        """The first row, counted from 1, that holds texts[code]."""
        return int(np.argmax(self.codes == code)) + 1


def read_table(path, required, optional=(), separator=","):
    """{name: Column} of a table's required columns and of those optional ones it has; other columns are not read.

    .parquet is read as Parquet, any other name as text with a header line; rows that hold nothing are skipped. Parquet
    columns may be integers or text, plain or dictionary-encoded. Raises InputError, naming file, column and row, for
    a missing column, an empty cell, an id of more than 200 characters or with control characters, a type that is no
    id, a line with a wrong number of fields, text that is not UTF-8, and Parquet headers that declare far more than
    the file can hold.
    """
    path = existing_file(path)
    pa = _pyarrow()
    read = _read_parquet if path.suffix == ".parquet" else _read_text
    try:
        table = read(path, list(required), list(optional), separator)
        table.validate()
        return {name: _column(path, name, table.column(name)) for name in table.column_names}
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        reason = _ROW.sub(lambda found: f"row {int(found[1]) - 1}", str(error))  # pyarrow counts the header
        raise InputError(f"{path}: is not a readable table ({shown(reason, 160)}); write it again") from None


def numbers_or_texts(texts):
    """int64 ids where every text is a canonical integer (no sign +, no leading zero), else the texts (NumPy str)."""
    if all(_CANONICAL.fullmatch(text) for text in texts):
        values = [int(text) for text in texts]
        if not values or (min(values) >= -(2**63) and max(values) < 2**63):
            return np.array(values, dtype=np.int64)
    return np.array(texts, dtype=str)


def _read_text(path, required, optional, separator):
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        header = file.readline(_BLOCK).decode("utf-8-sig", errors="replace").rstrip("\r\n")
    there = [name.strip('"') for name in header.split(separator)]
    names = _chosen(path, there, required, optional)
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=csv.ParseOptions(delimiter=separator, quote_char=False if separator == "\t" else '"'),
        convert_options=csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string())),
            strings_can_be_null=False,
            auto_dict_encode=False,
        ),
    )


def _read_parquet(path, required, optional, separator):
    from pyarrow import parquet

    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        names = _chosen(path, file.schema_arrow.names, required, optional)
        texts = [name for name in names if not _integers(path, name, file.schema_arrow.field(name).type)]
        rows = file.metadata.num_rows
        declared = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        if rows < 0 or rows > _ROWS_A_BYTE * size or declared < 0 or declared > max(_SMALL, _EXPANSION * size):
            raise InputError(
                f"{path}: declares {rows} rows and {declared} bytes in a file of {size} bytes; write it again"
            )
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        return file.read(columns=names, use_threads=False)


def _chosen(path, there, required, optional):
    for name in required:
        if name not in there:
            listed = ", ".join(there[:12])
            raise InputError(f"{path}: has no column {name}; its columns are {shown(listed, 120)}")
    names = required + [name for name in optional if name in there]
    for name in names:
        if there.count(name) > 1:
            raise InputError(f"{path}: has {there.count(name)} columns called {name}; keep one")
    return names


def _column(path, name, chunked):
    import pyarrow as pa
    import pyarrow.compute as pc

    if chunked.null_count:
        row = pc.index(pc.is_null(chunked), True).as_py() + 1
        raise InputError(f"{path}: row {row} has no {name}; fill it in or drop the row")
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.dictionary_encode()
    codes, seen = [], {}
    for chunk in chunked.chunks:
        local = chunk.dictionary.to_pylist()
        index = chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if len(index) and not (0 <= index.min() and index.max() < len(local)):
            raise InputError(f"{path}: column {name} has a damaged dictionary; write the file again")
        used = np.flatnonzero(np.bincount(index, minlength=len(local)))
        to = np.full(len(local), -1, np.int64)
        for code in used.tolist():
            if local[code] is None:
                row = int(np.argmax(index == code)) + sum(map(len, codes)) + 1
                raise InputError(f"{path}: row {row} has no {name}; fill it in or drop the row")
            to[code] = seen.setdefault(str(local[code]), len(seen))
        codes.append(to[index])
    column = Column(list(seen), np.concatenate(codes) if codes else np.empty(0, np.int64))
    for code, text in enumerate(column.texts):
        if not text:
            raise InputError(f"{path}: row {column.row_of(code)} has no {name}; fill it in or drop the row")
        if len(text) > _LONGEST_ID or _FORBIDDEN.search(text):
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}; ids have up to {_LONGEST_ID} "
                "printable "
                "characters"
            )
    return column


def _integers(path, name, kind):
    """Whether a column's type is integer rather than text; raises InputError where it is neither."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise InputError(f"{path}: column {name} is of type {kind}; ids and splits are integers or text")
    return types.is_integer(kind)


def _pyarrow():
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"pyarrow is missing, which reads tables; {install_command('train')}") from None
    return pyarrow
