"""write_plain: any Dataset as a folder in the plain layout."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import SPLITS


def write_plain(dataset, folder, table="csv"):
    """Writes the dataset so that `load(folder)` gives it back, split and original ids included; returns the folder.

    table: "csv" or "parquet" for interactions, users and items. The folder is made where it is missing. Raises
    InputError where it cannot be written or holds an interactions table already.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    if table not in ("csv", "parquet"):
        raise InputError(f"table {table!r} is unknown; choose csv or parquet")
    folder = Path(folder)
    pairs = {split: getattr(dataset, split).tocoo() for split in SPLITS}
    users = np.concatenate([pairs[split].row for split in SPLITS])
    items = np.concatenate([pairs[split].col for split in SPLITS])
    names = np.repeat(SPLITS, [pairs[split].nnz for split in SPLITS])
    tables = {
        "interactions": {"user": dataset.original_users(users), "item": dataset.original_items(items), "split": names},
        "users": {"user": dataset.original_users(np.arange(dataset.n_users))},
        "items": {"item": dataset.original_items(np.arange(dataset.n_items))},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for end in ("csv", "parquet"):
            if (folder / f"interactions.{end}").exists():
                raise InputError(f"{folder}: holds interactions.{end} already; give an empty folder")
        for name, columns in tables.items():
            arrow = pa.table({key: pa.array(values.tolist()) for key, values in columns.items()})
            path = folder / f"{name}.{table}"
            csv.write_csv(arrow, path) if table == "csv" else parquet.write_table(arrow, path)
        for modality, values in dataset.features.items():
            np.save(folder / f"{modality}_feat.npy", values)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from None
    return folder
