"""Opening the files and folders of a data set, with the checks that do not depend on the format."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from ..errors import InputError, shown

TABLE_ENDS = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
# A .gz file that decompresses to more than this is refused.
_EXPANSION, _SMALL = 100, 1 << 24
_CHUNK = 1 << 20
_MAX_DEPTH = 8  # of the folders in a partitioned table
# {what a folder contains: (the table format, how to write its current rows)}. Such a folder also keeps the files of
# earlier versions, and only the format's own log tells which rows are current.
_VERSIONED = {
    "_delta_log": ("a Delta Lake table", "polars.read_delta(FOLDER).write_parquet(FILE)"),
    "metadata/*.metadata.json": ("an Apache Iceberg table", "table.scan().to_polars().write_parquet(FILE)"),
    ".hoodie": ("an Apache Hudi table", "spark.read.format('hudi').load(FOLDER).write.parquet(OTHER)"),
    "_spark_metadata": ("the output of a Spark stream", "spark.read.parquet(FOLDER).write.parquet(OTHER)"),
}
# {end of a file name: what such a file is, and how to make it readable}.
_OTHER_FORMATS = {
    (".zip", ".7z", ".rar", ".tar", ".tar.gz", ".tgz"): "an archive; unpack it",
    (".bz2", ".xz", ".zst", ".lz4"): "compressed in another way than gzip; decompress it",
    (".xlsx", ".xls", ".ods"): "a spreadsheet; save it as CSV",
    (
        ".jsonl",
        ".ndjson",
    ): "JSON lines; write it as Parquet: polars.read_ndjson(FILE).write_parquet('interactions.parquet')",
    (".feather", ".arrow", ".ipc"): "an Arrow file; write it as Parquet: "
    "polars.read_ipc(FILE).write_parquet('interactions.parquet')",
    (".avro", ".orc"): "a table of another format; write it as Parquet",
}


def other_format(name: str) -> str | None:
    """What a file is and how to make it readable, for an end of its name that stands for a format that is not read."""
    return next((what for ends, what in _OTHER_FORMATS.items() if name.lower().endswith(ends)), None)


def existing_folder(path: str | Path) -> Path:
    """The folder as a Path. Raises InputError if it is missing, is not a folder, or cannot be read."""
    folder = Path(path)
    try:
        if not folder.exists():
            raise InputError(f"{folder}: no such folder; give the folder that contains the interactions")
        if not folder.is_dir():
            raise InputError(f"{folder}: is a file; give its folder, and --interactions {folder.name}")
        os.listdir(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be read ({reason(error)}); check the name and its permissions") from None
    _refuse_versioned(folder)
    return folder


def check_named(path: Path) -> None:
    """Raise InputError if there is nothing at a path that the user has typed."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the name")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check the name and its permissions") from None


def existing_file(path: Path) -> Path:
    """The path. Raises InputError if it is missing or not a regular file: reading a pipe or device could block."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; add it, or choose another layout")
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; replace it with the data file")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check its permissions") from None
    return path


def parts_of(path: Path, start: str = "") -> list[tuple[Path, dict[str, str]]]:
    """The files of a table, with the columns that are encoded in folder names: [(file, {column: value})].

    A file is its own only part. In a folder, as written by Spark, Dask and DuckDB, the parts are its tables in the
    order of their names, and those in subfolders named column=value. Names that start with "_" or "." are skipped, and
    so are files whose names do not start with `start`. Raises InputError for a folder without parts, and for a table
    of a format that keeps earlier versions in its folder, such as Delta Lake.
    """
    if not path.is_dir():
        return [(existing_file(path), {})]
    _refuse_versioned(path)
    parts = list(_walk(path, {}, start, 0))
    if not parts:
        raise InputError(f"{path}: is a folder without tables; expected a file, or a folder with part-*.parquet files")
    return parts


def is_partitioned(folder: Path) -> bool:
    """Whether the folder is a table in parts: it contains part-* files, or folders named column=value."""
    return any(
        (entry.is_file() and entry.name.startswith("part-") and entry.name.endswith(TABLE_ENDS))
        or (entry.is_dir() and "=" in entry.name[1:] and not entry.name.startswith(("_", ".")))
        for entry in os.scandir(folder)
    )


def _refuse_versioned(folder: Path) -> None:
    """Raise InputError for a folder, or the data/ of one, whose files also hold deleted and replaced rows."""
    for table in (folder, folder.parent) if folder.name == "data" else (folder,):
        for sign, (kind, command) in _VERSIONED.items():
            if any(table.glob(sign)):
                raise InputError(
                    f"{table}: is {kind}, whose folder can also hold deleted and replaced rows; "
                    f"write its current rows to Parquet, for example with {command}"
                )


def _walk(folder: Path, keys: dict[str, str], start: str, depth: int) -> Iterator[tuple[Path, dict[str, str]]]:
    if depth > _MAX_DEPTH:
        raise InputError(
            f"{folder}: is nested {depth} folders deep in a table; write the table with fewer partition columns"
        )
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_dir():
            name, equals, value = entry.name.partition("=")
            if not name or not equals:
                if start:
                    continue
                raise InputError(
                    f"{path}: is a folder inside a table, but its name is not column=value; move it elsewhere"
                )
            if value == "__HIVE_DEFAULT_PARTITION__":
                raise InputError(f"{path}: its rows have no {name}; add the values or remove the rows")
            yield from _walk(path, {**keys, name: unquote(value)}, "", depth + 1)
        elif entry.name.endswith(TABLE_ENDS) and entry.name.startswith(start):
            yield existing_file(path), keys


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in .gz. Raises InputError if it cannot be read."""
    try:
        content = existing_file(path).read_bytes()
        if path.suffix == ".gz":
            check_gzip(path)
            content = gzip.decompress(content)
        return content
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check its permissions") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, possibly compressed (.gz)."""
    content = read_bytes(path)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def check_gzip(path: Path) -> None:
    """Raise InputError for a .gz file that is damaged, or whose content is far larger than the file."""
    size, limit = 0, max(_SMALL, _EXPANSION * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise InputError(
                        f"{path}: decompresses to more than {limit} bytes; if that is right, decompress it yourself"
                    )
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable gzip file ({shown(str(error))}); write it again") from None


def reason(error: Exception) -> str:
    """The message of the operating system for an OSError."""
    return getattr(error, "strerror", None) or str(error)
