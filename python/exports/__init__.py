"""Writing a model for other software: its embeddings as tables, indexes for nearest neighbours, and its towers. One
module a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..runs.saved_model import Model
from . import (
    faiss_index,
    hnswlib_index,
    npy_files,
    onnx_towers,
    parquet_files,
    safetensors_file,
    torch_export,
    usearch_index,
)
from .check import Settings
from .tables import Exported, Tables

TABLES: dict[str, Callable[[Tables, Path, Settings], Exported]] = {
    "safetensors": safetensors_file.write,
    "parquet": parquet_files.write,
    "npy": npy_files.write,
    "faiss": faiss_index.write,
    "usearch": usearch_index.write,
    "hnswlib": hnswlib_index.write,
}
TOWERS: dict[str, Callable[[Model, Path, Settings], Exported]] = {
    "torch-export": torch_export.write,
    "onnx": onnx_towers.write,
}
FORMATS = (*TABLES, *TOWERS)


def export(model: Model, path: str | Path, to: str, settings: Settings | None = None) -> Exported:
    """Write the embeddings of a model, with the original ids, or its towers, in another format.

    A user's score for an item is the inner product of their embeddings, in every format.

    to: "safetensors" writes the file `path`. "parquet" and "npy" write a new folder with the users and the items.
    "faiss", "usearch" and "hnswlib" write a new folder with an index of the items and the tables that belong to it. The
    index is read back from the file, and its lists are compared with the exact ones. settings: for these three.
    "torch-export" and "onnx" write a new folder with the towers (`fold_in`, `embed_items`) that the model has. They are
    read back, and their results are compared with the model's.

    Nothing is left behind after an error. Raises InputError for an unknown format, an occupied folder, ids that the
    format cannot hold, a missing library, a model without towers, an index that finds too few of the best items, or a
    tower with other results.

    >>> import tempfile
    >>> from mmssl_trainer import configure, export, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "svd"}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = export(model, f"{folder}/embeddings", "npy")
    >>> [file.name for file in exported.files]
    ['item_ids.npy', 'items.npy', 'user_ids.npy', 'users.npy']
    """
    if to not in FORMATS:
        raise InputError(f"export format {to!r}: must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    settings = settings or Settings()
    return TOWERS[to](model, path, settings) if to in TOWERS else TABLES[to](Tables.of(model), path, settings)
