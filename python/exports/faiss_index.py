"""faiss: items.faiss, an index with the inner product as metric and the keys as ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, needed
from .check import Search, Settings, write_index
from .tables import Exported, Tables


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the index of `settings.faiss_index`, by default exact. Read it with ``faiss.read_index``.

    faiss returns the inner product as score, and where it finds nothing the key −1 with the lowest float32. The order
    of equal scores depends on k. Settings that faiss stores (nprobe, efSearch) are in the file.
    """
    faiss = needed("faiss", "export")

    def build(vectors: np.ndarray, keys: np.ndarray, file: Path) -> dict[str, Any]:
        description = f"IDMap2,{settings.faiss_index}"
        try:
            index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError:
            raise InputError(
                f"--faiss-index {settings.faiss_index}: faiss.index_factory does not know it, or not for "
                f"{vectors.shape[1]} dimensions"
            ) from None
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise InputError(f"--faiss-index {settings.faiss_index}: has another metric than the inner product")
        try:
            _configure(faiss, index, settings)
            index.train(vectors)
            index.add_with_ids(vectors, keys)
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rpartition("Error: ")[2]
            raise InputError(f"--faiss-index {settings.faiss_index}: cannot be built: {reason}") from None
        faiss.write_index(index, str(file))
        return {"library": f"faiss {faiss.__version__}", "index": description}

    def load(file: Path) -> Search:
        index = faiss.read_index(str(file))
        return lambda queries, k: index.search(queries, k)

    return write_index(tables, path, settings, "items.faiss", build, load)


def _configure(faiss: Any, index: Any, settings: Settings) -> None:
    """Set how many candidates the graph of an index keeps, or how many lists of a clustered index are read."""
    inner = faiss.downcast_index(index.index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction, inner.hnsw.efSearch = settings.build, settings.search
    elif hasattr(inner, "nprobe"):
        inner.nprobe = max(1, min(inner.nlist, inner.nlist * settings.search // 1000))
