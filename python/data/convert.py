"""`mmssl-fast data convert`: converting data in the layouts of other projects to the plain layout."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from ..files import whole_folder
from .arrow import numbers_or_texts
from .dataset import Dataset
from .files import existing_folder
from .foreign import recognised, tables
from .foreign.source import Source, ids_of, of_dataset
from .layouts import choose, plain
from .load import load
from .sql import database_kind
from .write import write_table


def convert_data(
    source: str | Path,
    destination: str | Path,
    user: str | None = None,
    item: str | None = None,
    table: str = "parquet",
) -> Dataset:
    """Convert `source`, a folder or a table, to the plain layout in the new folder `destination`, with its ids,
    features and splits. Returns the Dataset of the new folder, which appears only when it is complete.

    user, item: names of the id columns; needed only if they are not in names.COLUMN_NAMES. table: "parquet" or "csv".
    Raises InputError if the source is not recognised or has an error, or if `destination` is not empty.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "ratings.csv"
    ...     rows = [f"{user},{movie},4.0" for user in range(5) for movie in range(user, user + 6)]
    ...     with open(table, "w") as file:
    ...         print("userId,movieId,rating", *rows, sep=chr(10), file=file)
    ...     data = convert_data(table, Path(folder) / "converted")
    >>> data.n_users, data.layout
    (5, 'plain')
    """
    if table not in ("csv", "parquet"):
        raise InputError(f"--table {shown(table)}: must be csv or parquet")
    if user is not None and user == item:
        raise InputError(f"user and item are both the column {shown(user)}; give two columns")
    path, destination = Path(source), Path(destination)
    if database_kind(path):
        raise InputError(
            f"{path}: is a database, which train and data prepare read with --interactions {path.name} --query SELECT…"
        )
    if path.is_file():
        read = tables.read_file(path, user, item)
    else:
        read = _read_folder(existing_folder(path), user, item)
    return _write(read, destination, table)


def _read_folder(folder: Path, user: str | None, item: str | None) -> Source:
    if plain.fits(folder) and not (user or item) and _readable(folder):
        raise InputError(f"{folder}: is already in the plain layout; train can read it")
    module = tables if user or item else recognised(folder)
    if module is tables:
        return tables.read_file(tables.find(folder), user, item) if user or item else tables.read(folder)
    if module is not None:
        return module.read(folder)
    return of_dataset(load(folder, choose(folder).NAME))


def _readable(folder: Path) -> bool:
    try:
        load(folder, plain.NAME, modalities=[])
    except InputError:
        return False
    return True


def _write(source: Source, destination: Path, table: str) -> Dataset:
    """Write the folder and read it back. Returns the Dataset, with the notes of the source and of reading."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole_folder(destination) as temporary:
        rows = {"user": ids_of(source.users), "item": ids_of(source.items), **source.numbers}
        if source.splits is not None:
            rows["split"] = ids_of(source.splits)
        write_table(temporary / f"interactions.{table}", rows)
        more = {name: np.array(cells, object) for name, cells in source.item_columns.items()}
        for name, ids, columns in (("user", source.user_ids, {}), ("item", source.item_ids, more)):
            if ids is not None:
                write_table(temporary / f"{name}s.{table}", {name: numbers_or_texts(ids), **columns})
        for modality, (column, values) in source.features.items():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            rows = pa.table({"item": pa.array(ids_of(column).tolist()), "vector": vectors})
            parquet.write_table(rows, temporary / f"{modality}_feat.parquet")
        for path in source.copied:
            shutil.copyfile(path, temporary / path.name)
        try:
            data = load(temporary)
        except InputError as error:
            message = str(error).replace(str(temporary), str(destination))
            raise InputError(f"the converted data is invalid, nothing was written: {message}") from None
    data.notes[:0] = source.notes
    return replace(data, name=destination.resolve().name)
