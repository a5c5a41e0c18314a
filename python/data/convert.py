"""convert: data in the layouts of other projects, written as a folder in the plain layout."""

import shutil
from pathlib import Path

from ..errors import InputError, shown
from ..files import whole_folder
from .files import existing_folder
from .foreign import recognised, tables
from .foreign.source import ids_of, of_dataset
from .layouts import choose, plain
from .load import load
from .tables import numbers_or_texts
from .write import write_table


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
    return _write(read, destination, table)


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


def _write(source, destination, table):
    """The folder, whole or not at all; returns it as a Dataset, read back with the notes of both."""
    import pyarrow as pa
    from pyarrow import parquet

    with whole_folder(destination) as place:
        rows = {"user": ids_of(source.users), "item": ids_of(source.items), **source.numbers}
        if source.splits is not None:
            rows["split"] = ids_of(source.splits)
        write_table(place / f"interactions.{table}", rows)
        for name, ids in (("user", source.user_ids), ("item", source.item_ids)):
            if ids is not None:
                write_table(place / f"{name}s.{table}", {name: numbers_or_texts(ids)})
        for modality, (column, values) in source.features.items():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            rows = pa.table({"item": pa.array(ids_of(column).tolist()), "vector": vectors})
            parquet.write_table(rows, place / f"{modality}_feat.parquet")
        for path in source.copied:
            shutil.copyfile(path, place / path.name)
        try:
            data = load(place)
        except InputError as error:
            said = str(error).replace(str(place), str(destination))
            raise InputError(f"what would be written cannot be read back: {said}") from None
    data.notes[:0] = source.notes
    return data
