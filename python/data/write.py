"""write_plain: writing a Dataset in the plain layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import whole_folder
from .dataset import SPLITS, Dataset


def write_plain(dataset: Dataset, folder: str | Path, table: str = "csv") -> Path:
    """Write the dataset with its split and original ids, so that `load(folder)` returns it. Returns the folder. Weights
    are written to a column weight, which `load(folder, weight_column="weight")` reads.

    table: "csv" or "parquet", the format of interactions, users and items. The folder appears only when it is complete.
    Raises InputError if it cannot be written or is not empty.
    """
    if table not in ("csv", "parquet"):
        raise InputError(f"table = {table!r}: must be csv or parquet")
    folder = Path(folder)
    pairs = {split: getattr(dataset, split).tocoo() for split in SPLITS}
    users = np.concatenate([pairs[split].row for split in SPLITS])
    items = np.concatenate([pairs[split].col for split in SPLITS])
    names = np.repeat(SPLITS, [pairs[split].nnz for split in SPLITS])
    with whole_folder(folder) as temporary:
        rows = {"user": dataset.original_users(users), "item": dataset.original_items(items), "split": names}
        if dataset.weights is not None:
            held_out = np.ones(len(users) - len(dataset.weights))  # their weights are not used
            rows["weight"] = np.concatenate([dataset.weights.astype(np.float64), held_out])
        write_table(temporary / f"interactions.{table}", rows)
        write_table(temporary / f"users.{table}", {"user": dataset.original_users(np.arange(dataset.n_users))})
        write_table(temporary / f"items.{table}", {"item": dataset.original_items(np.arange(dataset.n_items))})
        for modality, values in dataset.features.items():
            np.save(temporary / f"{modality}_feat.npy", values)
    return folder


def write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Write {column: array} as CSV or Parquet, depending on the extension."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    arrow = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
    csv.write_csv(arrow, path) if path.suffix == ".csv" else parquet.write_table(arrow, path)
