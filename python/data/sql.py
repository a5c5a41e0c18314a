"""Queries to a DuckDB or SQLite database, whose result is read as Arrow record batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError, first_line, needed, shown
from .arrow import pyarrow

ROWS = 1 << 16  # of a record batch
_TABLES = {
    "duckdb": "select table_name from information_schema.tables",
    "sqlite": "select name from sqlite_schema where type in ('table', 'view')",
}


def database_kind(path: Path) -> str | None:
    """ "duckdb", "sqlite", or None for any other file, by its first bytes."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(16)
    return "sqlite" if start == b"SQLite format 3\0" else "duckdb" if start[8:12] == b"DUCK" else None


def refuse_without_query(path: Path) -> NoReturn:
    """Raise InputError, because a database was given without a query."""
    raise InputError(f'{path}: is a database; give --query "select user, item from TABLE"{_tables(path)}')


@contextmanager
def query_result(path: Path, query: str) -> Iterator[Any]:
    """The result of one SELECT statement as a pyarrow.RecordBatchReader.

    The database is opened read-only. A query to DuckDB can read other files only in the folder of the database, as a
    view on Parquet files does; one to SQLite none, and ATTACH, which would create a file, is refused. Raises InputError
    if the query cannot be run, or the driver is not installed.
    """
    pa, kind = pyarrow(), database_kind(path)
    errors, run = _driver(path, kind)
    try:
        with run(query) as reader:
            yield reader
    except (*errors, pa.ArrowException) as error:
        raise InputError(f"{path}: the query cannot be run ({shown(first_line(error), 160)}){_tables(path)}") from None


def _driver(
    path: Path, kind: str | None
) -> tuple[tuple[type[Exception], ...], Callable[[str], AbstractContextManager[Any]]]:
    """(exception classes of a failed query, function query → context manager of a RecordBatchReader) for a database."""
    try:
        if kind == "duckdb":
            return (needed("duckdb", "sql").Error, OSError), lambda query: _duckdb(path, query)
        if kind == "sqlite":
            needed("adbc_driver_sqlite", "sql")
            errors = needed("adbc_driver_manager", "sql").Error, sqlite3.Error, OSError
            return errors, lambda query: _sqlite(path, query)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    raise InputError(f"{path}: is not a DuckDB or SQLite database, which --query needs")


@contextmanager
def _duckdb(path: Path, query: str) -> Iterator[Any]:
    duckdb = needed("duckdb", "sql")
    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        folder = str(path.resolve().parent).replace("'", "''")
        for setting in (
            f"allowed_directories = ['{folder}']",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        statements = connection.extract_statements(query)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise _no_select(path, query)
        yield connection.sql(query).to_arrow_reader(ROWS)


@contextmanager
def _sqlite(path: Path, query: str) -> Iterator[Any]:
    dbapi, address = needed("adbc_driver_sqlite.dbapi", "sql"), f"{path.resolve().as_uri()}?mode=ro"
    _check_select(path, address, query)
    with (
        closing(dbapi.connect(address)) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(query)
        yield cursor.fetch_record_batch()


def _check_select(path: Path, address: str, query: str) -> None:
    """Raise InputError unless the query to SQLite is one SELECT statement.

    SQLite compiles it for this, and says what it would do. The ADBC driver runs the first of several statements, and
    statements of any kind.
    """
    reading = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
    actions: set[int] = set()

    def allow(action: int, *_: object) -> int:
        actions.add(action)
        return sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY

    with closing(sqlite3.connect(address, uri=True)) as connection:
        connection.set_authorizer(allow)
        try:
            connection.execute(f"explain {query}")
        except (sqlite3.Error, sqlite3.Warning) as error:
            if actions <= reading and "one statement" not in str(error):
                raise
            actions.clear()
    if sqlite3.SQLITE_SELECT not in actions or not actions <= reading:
        raise _no_select(path, query)


def _no_select(path: Path, query: str) -> InputError:
    return InputError(f"{path}: the query {shown(query)} must be one SELECT statement")


def _tables(path: Path) -> str:
    """ "; its tables are …", for a message."""
    kind = database_kind(path)
    errors, run = _driver(path, kind)
    names: list[str]
    try:
        with run(_TABLES[str(kind)]) as reader:
            names = sorted(name for batch in reader for name in batch.column(0).to_pylist())
    except errors:
        return ""
    return f"; its tables are {shown(', '.join(names), 120)}" if names else "; it has no tables"
