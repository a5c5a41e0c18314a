"""usearch: items.usearch, a graph index in float32 with the inner product as metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import needed
from .check import Search, Settings, write_index
from .tables import Exported, Tables


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the index. Read it with ``Index.restore``, and then set ``index.expansion_search``, which the file lacks.

    usearch returns 1 minus the inner product as distance. In a batch, rows are filled up with key 0; ``matches.counts``
    says how many keys of a row were found.
    """
    usearch = needed("usearch.index", "export")

    def build(vectors: np.ndarray, keys: np.ndarray, file: Path) -> dict[str, Any]:
        index = usearch.Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32",  # without it an index keeps bfloat16
            connectivity=settings.neighbours,
            expansion_add=settings.build,
        )
        index.add(keys.astype(np.uint64), vectors, threads=1)  # so that the same model gives the same graph
        index.save(str(file))
        return {"library": f"usearch {needed('usearch', 'export').__version__}", "expansion_search": settings.search}

    def load(file: Path) -> Search:
        index = usearch.Index.restore(str(file))
        index.expansion_search = settings.search

        def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            found = index.search(queries, k, threads=1)
            keys, distances = (np.atleast_2d(column) for column in (found.keys, found.distances))
            counts = np.atleast_1d(getattr(found, "counts", [keys.shape[1]]))
            there = np.arange(keys.shape[1]) < counts[:, None]
            return 1 - np.where(there, distances, np.inf), np.where(there, keys.astype(np.int64), -1)

        return search

    return write_index(tables, path, settings, "items.usearch", build, load)
