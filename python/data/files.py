"""Opening what the user named: the checks that come before any format is looked at, and the parts of a table."""

import gzip
import os
import zlib
from pathlib import Path
from urllib.parse import unquote

from ..errors import InputError, shown

TABLE_ENDS = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
_EXPANSION = 100
_SMALL = 1 << 24
_CHUNK = 1 << 20
_DEEPEST = 8


def existing_folder(path):
    """The folder as a Path; raises InputError where it is missing, not a folder or not readable."""
    folder = Path(path)
    try:
        if not folder.exists():
            raise InputError(f"{folder}: no such folder; give the folder that holds the interactions")
        if not folder.is_dir():
            raise InputError(f"{folder}: is a file; give the folder that holds it, and --interactions {folder.name}")
        os.listdir(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be read ({reason(error)}); check the name and its permissions") from None
    return folder


def existing_file(path):
    """The path; raises InputError where it is missing or anything but a regular file (a pipe or device would hang)."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; put it there or choose another layout")
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; replace it by the data file itself")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check its permissions") from None
    return path


def parts_of(path, start=""):
    """[(file, {column: value})]: the files that make up a table, with the columns that folder names hold.

    A file is its own only part. A folder of parts, as Spark, Dask and DuckDB write them, gives its tables in the order
    of their names, and those in folders called column=value; names that begin with "_" or "." are left out, and with
    `start` files whose names begin otherwise. Raises InputError for a folder without parts.
    """
    if not path.is_dir():
        return [(existing_file(path), {})]
    parts = list(_walk(path, {}, start, 0))
    if not parts:
        raise InputError(f"{path}: is a folder without parts; a folder in a table's place holds part-*.parquet files")
    return parts


def is_partitioned(folder):
    """Whether the folder is itself a table: it holds part-* files, or folders called column=value."""
    return any(
        (entry.is_file() and entry.name.startswith("part-") and entry.name.endswith(TABLE_ENDS))
        or (entry.is_dir() and "=" in entry.name[1:] and not entry.name.startswith(("_", ".")))
        for entry in os.scandir(folder)
    )


def _walk(folder, keys, start, depth):
    if depth > _DEEPEST:
        raise InputError(f"{folder}: lies {depth} folders deep in a table; write it with fewer partition columns")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(("_", ".")):
            continue
        if entry.is_dir():
            name, equals, value = entry.name.partition("=")
            if not name or not equals:
                if start:
                    continue
                raise InputError(f"{path}: is a folder inside a table, its name is not column=value; move it away")
            if value == "__HIVE_DEFAULT_PARTITION__":
                raise InputError(f"{path}: its rows have no {name}; drop them or fill it in")
            yield from _walk(path, {**keys, name: unquote(value)}, "", depth + 1)
        elif entry.name.endswith(TABLE_ENDS) and entry.name.startswith(start):
            yield existing_file(path), keys


def read_bytes(path):
    """The file's content, unfolded where its name ends in .gz; raises InputError where it cannot be read."""
    try:
        content = existing_file(path).read_bytes()
        if path.suffix == ".gz":
            check_gzip(path)
            content = gzip.decompress(content)
        return content
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check its permissions") from None


def read_text(path):
    """The text of a UTF-8 file, with or without a byte order mark, plain or gzipped (.gz)."""
    content = read_bytes(path)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}: is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def check_gzip(path):
    """Raises InputError for a .gz file that is damaged or unfolds to far more than its own size."""
    size, limit = 0, max(_SMALL, _EXPANSION * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise InputError(f"{path}: unfolds to more than {limit} bytes; unfold it yourself if it is right")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable gzip file ({shown(str(error))}); write it again") from None


def reason(error):
    """What the system says of an OSError."""
    return getattr(error, "strerror", None) or str(error)
