"""Reading tables from CSV, TSV and Parquet, as one file or in parts. Ids are read as text."""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ..errors import InputError, install_command, shown
from .files import check_gzip, parts_of
from .names import standard_names

_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")
_ROW = re.compile(r"Row #([0-9]{1,18})")
_NUMBER = re.compile(r"\s*[-+]?[0-9]+(\.[0-9]*)?\s*")
_LONGEST_ID = 200
_BLOCK = 1 << 24
_ROWS_A_BYTE = 64
_EXPANSION = 200
_SMALL = 1 << 26
_BATCH = 4096
_SEPARATORS = ",\t;|"


class Column(NamedTuple):
    """A column of ids. Row r has the id texts[codes[r]]; the texts are distinct and not empty."""

    texts: list[str]
    codes: np.ndarray

    @classmethod
    def of(cls, texts):
        """The Column of a list with one text per row."""
        seen = {}
        codes = np.array([seen.setdefault(text, len(seen)) for text in texts], np.int64)
        return cls(list(seen), codes)

    @classmethod
    def concatenated(cls, columns):
        """One Column with the rows of several, in order."""
        seen, codes = {}, []
        for column in columns:
            new_codes = np.array([seen.setdefault(text, len(seen)) for text in column.texts], np.int64)
            codes.append(new_codes[column.codes])
        return cls(list(seen), np.concatenate(codes))

    def row_of(self, code):
        """The first row with the id texts[code], counted from 1 as in error messages."""
        return int(np.argmax(self.codes == code)) + 1

    def rows(self, index):
        """The Column of these rows: indices or a mask. Texts that no longer occur are dropped."""
        used, codes = np.unique(self.codes[index], return_inverse=True)
        return Column([self.texts[code] for code in used.tolist()], codes.reshape(-1))


class Table(dict):
    """{name: Column} for the columns of ids. numbers: {name: int64 or float64 [n]} for the columns of numbers. vectors:
    {name: [n, width]} for the columns of lists of numbers. unread: names of the other columns. rows: n."""

    def __init__(self, columns, numbers, vectors, unread, rows):
        super().__init__(columns)
        self.numbers, self.vectors, self.unread, self.rows = numbers, vectors, unread, rows

    def where(self, mask):
        """The rows where mask, bool [n], is true."""
        columns = {name: column.rows(mask) for name, column in self.items()}
        numbers = {name: values[mask] for name, values in self.numbers.items()}
        vectors = {name: values[mask] for name, values in self.vectors.items()}
        return Table(columns, numbers, vectors, self.unread, int(mask.sum()))


def read_table(path, required, optional=(), separator=None, numbers=(), vectors=False):
    """Read a table: the required columns, and those of `optional` and `numbers` that it has.

    path: a file, or a folder of parts (files.parts_of), in which folder names may contain columns. A .parquet file is
    read as Parquet, any other file as text with a header line, decompressed if its name ends in .gz. The separator of a
    text file is `separator`, or the first of comma, tab, semicolon and bar with which the header contains the required
    columns. Empty lines are skipped. Id columns in Parquet may be integers or any text type of Arrow,
    dictionary-encoded or not. numbers: names of the columns to read as numbers. vectors: also read all Parquet columns
    of lists of numbers.

    Raises InputError, with file, column and row, for a missing column, an empty cell, an id with more than 200
    characters or with control characters, an unsupported type, a line with a wrong number of fields, text that is not
    UTF-8, and a header that declares far more data than the file can contain.
    """
    wanted = _Wanted(list(required), list(optional), list(numbers), vectors)
    parts = [_read_part(part, keys, wanted, separator) for part, keys in parts_of(path)]
    return parts[0] if len(parts) == 1 else _joined(path, parts, wanted)


def column_names(path):
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
    return [*split_header(header, max(_SEPARATORS, key=header.count)), *keys]


def numbers_or_texts(texts):
    """An int64 array if all texts are canonical integers (no plus sign, no leading zeros), otherwise a NumPy str
    array."""
    if all(_CANONICAL.fullmatch(text) for text in texts):
        values = [int(text) for text in texts]
        if not values or (min(values) >= -(2**63) and max(values) < 2**63):
            return np.array(values, dtype=np.int64)
    return np.array(texts, dtype=str)


def first_line(path):
    """The first line of a text table, without a byte order mark."""
    import gzip

    if path.name.endswith(".gz"):
        check_gzip(path)
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        line = file.readline(_BLOCK)
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def split_header(line, separator):
    """The fields of a header line, without quotes."""
    return [name.strip('"') for name in line.split(separator)]


def check_ids(path, name, column):
    """Return the column. Raises InputError, with the row, for an id that is empty, too long or not printable."""
    for code, text in enumerate(column.texts):
        if not text:
            raise InputError(f"{path}: row {column.row_of(code)} has no {name}; add it or remove the row")
        if len(text) > _LONGEST_ID or _FORBIDDEN.search(text):
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}; ids must have at most {_LONGEST_ID} "
                "characters, all printable"
            )
    return column


def pyarrow():
    """The module pyarrow. Raises InputError if it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"reading tables needs pyarrow, which is not installed; {install_command('train')}") from None
    return pyarrow


class _Wanted(NamedTuple):
    required: list
    optional: list
    numbers: list
    vectors: bool


def _read_part(path, keys, wanted, separator):
    pa = pyarrow()
    read = _read_parquet if path.suffix == ".parquet" else _read_text
    try:
        table, vectors, names = read(path, wanted, keys, separator)
        table.validate()
        columns = {
            name: column_of(path, name, table.column(name))
            for name in table.column_names
            if name in wanted.required + wanted.optional
        }
        numbers = {name: numbers_of(path, name, table.column(name)) for name in wanted.numbers if name in names}
        vectors = {name: _matrix(path, name, table.column(name)) for name in vectors}
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        if "more than 64 bits" in str(error):
            raise InputError(
                f"{path}: contains integers of 128 bits, which Arrow does not support; write ids as Int64 or text"
            ) from None
        reason = _ROW.sub(lambda match: f"row {int(match[1]) - 1}", str(error))  # pyarrow counts the header as a row
        raise InputError(f"{path}: is not a readable table ({shown(reason, 160)}); write it again") from None
    for name, value in keys.items():
        if name in wanted.required + wanted.optional:
            columns[name] = check_ids(path, name, Column([value], np.zeros(table.num_rows, np.int64)))
        elif name in wanted.numbers:
            numbers[name] = numbers_of(path, name, pa.chunked_array([pa.array([value] * table.num_rows, pa.string())]))
    used = {*columns, *numbers, *vectors}
    unread = [name for name in [*names, *keys] if name not in used]
    return Table(columns, numbers, vectors, unread, table.num_rows)


def _read_text(path, wanted, keys, separator):
    import pyarrow as pa
    from pyarrow import csv

    header = first_line(path)
    all_names, separator = _header(path, header, wanted, keys, separator)
    names = [name for name in _chosen(path, all_names, wanted, keys) if name not in keys]
    ids = [name for name in names if name not in wanted.numbers]
    if path.name.endswith(".gz"):
        check_gzip(path)
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
        parse_options=csv.ParseOptions(delimiter=separator, quote_char=False if separator == "\t" else '"'),
        convert_options=csv.ConvertOptions(
            include_columns=names,
            column_types={
                name: pa.dictionary(pa.int32(), pa.string()) if name in ids else pa.string() for name in names
            },
            strings_can_be_null=False,
            auto_dict_encode=False,
        ),
    )
    return table, [], all_names


def _header(path, line, wanted, keys, separator):
    """(column names, separator) from the first line of a text table."""
    separators = [separator] if separator else ["\t" if ".tsv" in path.name else ",", *_SEPARATORS]
    needed = [name for name in wanted.required if name not in keys]
    for candidate in separators:
        names = split_header(line, candidate)
        if all(name in names for name in needed):
            return names, candidate
    best = separators[0] if separators[0] in line else max(separators, key=line.count)
    return split_header(line, best), best


def _read_parquet(path, wanted, keys, separator):
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
        all_names = schema.names
        names = [name for name in _chosen(path, all_names, wanted, keys) if name not in keys]
        ids = [name for name in names if name not in wanted.numbers]
        texts = [name for name in ids if not _integers(path, name, schema.field(name).type)]
        remaining = [name for name in all_names if wanted.vectors and name not in names]
        vectors = [name for name in remaining if _is_vector(schema.field(name))]
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        rows, declared = metadata.num_rows, sum(group.total_byte_size for group in groups)
        if rows < 0 or rows > _ROWS_A_BYTE * size or declared < 0 or declared > max(_SMALL, _EXPANSION * size):
            raise InputError(
                f"{path}: declares {rows} rows and {declared} bytes in a file of {size} bytes; write it again"
            )
        encodings = defaultdict(set)
        for group in groups:
            for chunk in map(group.column, range(group.num_columns)):
                encodings[chunk.path_in_schema].update(chunk.encodings)
    # Arrow cannot decode DELTA encodings into a dictionary, only into plain text with a copy per row. Such columns are
    # read in batches, each of which is dictionary-encoded at once.
    plain = [name for name in texts if any("DELTA" in encoding for encoding in encodings[name])]
    with parquet.ParquetFile(path, read_dictionary=[name for name in texts if name not in plain]) as file:
        table = file.read(columns=[name for name in names + vectors if name not in plain], use_threads=False)
        for name in plain:
            chunks = []
            for batch in file.iter_batches(_BATCH, columns=[name], use_threads=False):
                chunks.append(batch.column(0).cast(pa.large_string()).dictionary_encode())
                if (pc.max(pc.utf8_length(chunks[-1].dictionary)).as_py() or 0) > _LONGEST_ID:
                    column_of(path, name, pa.chunked_array(chunks))  # raises InputError before more is decoded
            columns = dict(zip(table.column_names, table.columns, strict=True))
            table = pa.table({**columns, name: pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.large_string()))})
    return table, vectors, all_names


def _chosen(path, all_names, wanted, keys):
    """The names of the columns to read. Raises InputError for a missing or ambiguous column."""
    for name in wanted.required:
        if name not in all_names and name not in keys:
            raise InputError(f"{path}: {_missing(name, all_names)}")
    names = wanted.required + [name for name in wanted.optional + wanted.numbers if name in all_names or name in keys]
    names = list(dict.fromkeys(names))
    for name in names:
        if all_names.count(name) > 1:
            raise InputError(f"{path}: has {all_names.count(name)} columns named {name}; keep only one")
        if name in all_names and name in keys:
            raise InputError(f"{path}: has the column {name} in the file and in the folder name; keep only one")
    return names


def _missing(name, all_names):
    listed = shown(", ".join(all_names[:12]), 120)
    if any(_NUMBER.fullmatch(field) for field in all_names):
        return (
            f"its first line {listed} is data, not a header; add a header such as user,item,rating, or use mmssl-fast "
            "data convert"
        )
    meanings = standard_names(all_names)
    if "user" in meanings and "item" in meanings:
        return (
            f"has no column {name}; its columns are {listed}; rename {meanings['user']} and {meanings['item']}, or use "
            "mmssl-fast data convert"
        )
    return f"has no column {name}; its columns are {listed}"


def column_of(path, name, chunked):
    """The Column of an Arrow column of integers or text. Raises InputError for an empty cell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if chunked.null_count:
        row = pc.index(pc.is_null(chunked), True).as_py() + 1
        raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")
    if not pa.types.is_dictionary(chunked.type):
        chunked = chunked.dictionary_encode()
    codes, seen = [], {}
    for chunk in chunked.chunks:
        local = chunk.dictionary.to_pylist()
        index = chunk.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if len(index) and not (0 <= index.min() and index.max() < len(local)):
            raise InputError(f"{path}: the dictionary of column {name} is damaged; write the file again")
        used = np.flatnonzero(np.bincount(index, minlength=len(local)))
        new_codes = np.full(len(local), -1, np.int64)
        for code in used.tolist():
            if local[code] is None:
                row = int(np.argmax(index == code)) + sum(map(len, codes)) + 1
                raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")
            new_codes[code] = seen.setdefault(str(local[code]), len(seen))
        codes.append(new_codes[index])
    return check_ids(path, name, Column(list(seen), np.concatenate(codes) if codes else np.empty(0, np.int64)))


def numbers_of(path, name, chunked):
    """An Arrow column of numbers or times as int64 or float64 [n]. Times are converted to microseconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = chunked.type
    if pa.types.is_dictionary(kind):
        chunked, kind = chunked.cast(kind.value_type), kind.value_type
    if pa.types.is_temporal(kind):
        tries = [pa.timestamp("us", getattr(kind, "tz", None))]
    elif pa.types.is_integer(kind):
        tries = [pa.int64(), pa.float64()]
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        tries = [pa.float64()]
    elif _is_text(kind):
        chunked = pc.utf8_trim_whitespace(chunked.cast(pa.large_string()))
        tries = [pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")]
    else:
        raise InputError(f"{path}: column {name} has the type {kind}; it must contain numbers")
    for target in tries:
        try:
            values = chunked.cast(target, safe=not pa.types.is_temporal(target))
        except pa.ArrowInvalid:
            continue
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() + 1
            raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")
        values = (values.cast(pa.int64()) if pa.types.is_temporal(target) else values).to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(f"{path}: row {bad[0] + 1} has the {name} {values[bad[0]]}; it must be a number")
        return values
    for row, text in enumerate(chunked.to_pylist(), 1):
        if text is None or not _NUMBER.fullmatch(text):
            raise InputError(f"{path}: row {row} has the {name} {shown(text)}; it must be a number")
    raise InputError(f"{path}: column {name} contains numbers above 2^63")


def _matrix(path, name, chunked):
    """An Arrow column of lists of the same length as an array [n, width]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if chunked.null_count:
        row = pc.index(pc.is_null(chunked), True).as_py() + 1
        raise InputError(f"{path}: row {row} has no {name}; add it or remove the row")
    blocks, width = [], None
    for chunk in chunked.chunks:
        if not len(chunk):
            continue
        lengths = pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if width is None else width
        if (lengths != width).any():
            row = int(np.argmax(lengths != width)) + sum(map(len, blocks)) + 1
            raise InputError(
                f"{path}: row {row} has {lengths[lengths != width][0]} values in {name}, but row 1 has {width}"
            )
        values = chunk.flatten()
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() // max(width, 1) + sum(map(len, blocks)) + 1
            raise InputError(f"{path}: row {row} has an empty value in {name}; add it or remove the row")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.uint8())
        blocks.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), width))
    return np.concatenate(blocks) if blocks else np.empty((0, 1), np.float32)


def _joined(path, parts, wanted):
    """The parts of a table as one Table."""
    columns, numbers, vectors = {}, {}, {}
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
    unread = list(dict.fromkeys(name for part in parts for name in part.unread))
    return Table(columns, numbers, vectors, unread, sum(part.rows for part in parts))


def _is_text(kind):
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_vector(field):
    from pyarrow import types

    kind = field.type
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    inner = kind.value_type if listed else None
    return listed and (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner))


def _integers(path, name, kind):
    """Whether a column of ids has an integer type (otherwise text). Raises InputError if it has another type."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(kind) or _is_text(kind):
        return types.is_integer(kind)
    advice = ""
    if types.is_floating(kind):
        advice = ", not floats; convert the column with astype('int64')"
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        advice = ", one per row; mmssl-fast data convert expands lists"
    raise InputError(f"{path}: column {name} has the type {kind}; ids and splits must be integers or text{advice}")
