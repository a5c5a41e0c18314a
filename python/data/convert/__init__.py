"""convert: data in the layouts of other projects, written as a folder in the plain layout.

A format module has NAME, TITLE (whose layout it is, in words), fits(folder) → bool and read(folder) → Source. `tables`,
which takes any table with columns for users and items, reads single files too and comes last.
"""

from pathlib import Path

from ...errors import InputError, shown
from ..files import existing_folder
from ..layouts import choose, plain
from ..load import load
from . import chaorec, lightgcn, recbole, sslrec, tables
from .source import of_dataset, write

FORMATS = (recbole, lightgcn, chaorec, sslrec, tables)


def convert(source, destination, user=None, item=None, table="parquet"):
    """Writes `source`, a folder or a table, to the folder `destination` in the plain layout, with its ids, features and
    splits; returns the Dataset that the new folder holds.

    user, item: the columns of a table that hold them, where their names are not among names.COLUMN_NAMES. table:
    "parquet" or "csv". The new folder appears whole or not at all. Raises InputError where nothing is recognised, as
    load for what is wrong with the data, and where `destination` holds anything.
    """
    if table not in ("csv", "parquet"):
        raise InputError(f"table {shown(table)} is unknown; choose csv or parquet")
    path, destination = Path(source), Path(destination)
    if path.is_file():
        read = tables.read_file(path, user, item)
    else:
        read = _read_folder(existing_folder(path), user, item)
    return write(read, destination, table)


def recognised(folder):
    """The format module that a folder fits, None without one."""
    return next((module for module in FORMATS if module.fits(folder)), None)


def _read_folder(folder, user, item):
    if plain.fits(folder) and not (user or item) and _readable(folder):
        raise InputError(f"{folder}: is in the plain layout already; train reads it as it is")
    module = tables if user or item else recognised(folder)
    if module is tables:
        return tables.read_file(tables.find(folder), user, item) if user or item else tables.read(folder)
    if module is not None:
        return module.read(folder)
    return of_dataset(load(folder, choose(folder).NAME))


def _readable(folder):
    try:
        load(folder, plain.NAME, modalities=[])
    except InputError:
        return False
    return True


__all__ = ["FORMATS", "convert", "recognised"]
