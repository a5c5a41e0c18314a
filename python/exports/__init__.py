"""Writing the embeddings of a model for other software: tables, and indexes for nearest neighbours. One module a
format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..runs.saved_model import Model
from . import faiss_index, hnswlib_index, npy_files, parquet_files, safetensors_file, usearch_index
from .check import Settings
from .tables import Exported, Tables

FORMATS: dict[str, Callable[[Tables, Path, Settings], Exported]] = {
    "safetensors": safetensors_file.write,
    "parquet": parquet_files.write,
    "npy": npy_files.write,
    "faiss": faiss_index.write,
    "usearch": usearch_index.write,
    "hnswlib": hnswlib_index.write,
}


def export(model: Model, path: str | Path, to: str, settings: Settings | None = None) -> Exported:
    """Write the embeddings of a model, with the original ids, in another format.

    A user's score for an item is the inner product of their embeddings, in every format.

    to: "safetensors" writes the file `path`. "parquet" and "npy" write a new folder with the users and the items.
    "faiss", "usearch" and "hnswlib" write a new folder with an index of the items and the tables that belong to it. The
    index is read back from the file, and its lists are compared with the exact ones. settings: for these three. Nothing
    is left behind after an error. Raises InputError for an unknown format, an occupied folder, ids that the format
    cannot hold, a missing library, or an index that finds too few of the best items.

    >>> import tempfile
    >>> from mmssl_trainer import configure, export, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "svd"}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = export(model, f"{folder}/embeddings", "npy")
    >>> [file.name for file in exported.files]
    ['item_ids.npy', 'items.npy', 'user_ids.npy', 'users.npy']
    """
    if to not in FORMATS:
        raise InputError(f"to = {to!r}: must be {', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}")
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    return FORMATS[to](Tables.of(model), path, settings or Settings())
