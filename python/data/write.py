"""write_plain: any Dataset as a folder in the plain layout."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import whole_folder
from .dataset import SPLITS


def write_plain(dataset, folder, table="csv"):
    """Writes the dataset so that `load(folder)` gives it back, split and original ids included; returns the folder.

    table: "csv" or "parquet" for interactions, users and items. The folder appears whole or not at all. Raises
    InputError where it cannot be written or holds anything.
    """
    if table not in ("csv", "parquet"):
        raise InputError(f"table {table!r} is unknown; choose csv or parquet")
    folder = Path(folder)
    pairs = {split: getattr(dataset, split).tocoo() for split in SPLITS}
    users = np.concatenate([pairs[split].row for split in SPLITS])
    items = np.concatenate([pairs[split].col for split in SPLITS])
    names = np.repeat(SPLITS, [pairs[split].nnz for split in SPLITS])
    with whole_folder(folder) as place:
        rows = {"user": dataset.original_users(users), "item": dataset.original_items(items), "split": names}
        write_table(place / f"interactions.{table}", rows)
        write_table(place / f"users.{table}", {"user": dataset.original_users(np.arange(dataset.n_users))})
        write_table(place / f"items.{table}", {"item": dataset.original_items(np.arange(dataset.n_items))})
        for modality, values in dataset.features.items():
            np.save(place / f"{modality}_feat.npy", values)
    return folder


def write_table(path, columns):
    """{name: array} as CSV or Parquet, by the name's end."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    arrow = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
    csv.write_csv(arrow, path) if path.suffix == ".csv" else parquet.write_table(arrow, path)
