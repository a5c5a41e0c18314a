"""hnswlib: items.hnsw, a graph index in float32 with the inner product as metric."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import needed
from .check import Search, Settings, write_index
from .tables import Exported, Tables


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the index. Read it with ``hnswlib.Index(space="ip", dim=d)`` and ``load_index``; then call ``set_ef``.

    The file has neither the space nor ef, and hnswlib does not notice a wrong space or dimension. It returns 1 minus
    the inner product as distance, and raises RuntimeError if it finds fewer than k items.
    """
    hnswlib = needed("hnswlib", "export")

    def build(vectors: np.ndarray, keys: np.ndarray, file: Path) -> dict[str, Any]:
        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(len(vectors), ef_construction=settings.build, M=settings.neighbours, random_seed=0)
        index.add_items(vectors, keys.astype(np.uint64), num_threads=1)
        index.save_index(str(file))
        return {"library": f"hnswlib {version('hnswlib')}", "space": "ip", "ef": settings.search}

    def load(file: Path) -> Search:
        index = hnswlib.Index(space="ip", dim=tables.items.shape[1])
        index.load_index(str(file))

        def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            index.set_ef(max(settings.search, k))
            scores, keys = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
            for row, query in enumerate(queries):  # a batch is refused whole where one query finds fewer than k items
                with suppress(RuntimeError):
                    found, distances = index.knn_query(query, k, num_threads=1)
                    scores[row], keys[row] = 1 - distances, found.astype(np.int64)
            return scores, keys

        return search

    return write_index(tables, path, settings, "items.hnsw", build, load)
