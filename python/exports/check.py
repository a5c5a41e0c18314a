"""Checking an index against the exact lists, and the folder that an index is written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl_fast import cosine_topk

from ..errors import InputError, first_line
from ..files import whole_folder
from .tables import Exported, Tables, arrow_ids

SAMPLE = 1000  # users whose lists are compared
LENGTHS = (10, 50)


@dataclass(frozen=True)
class Settings:
    """Settings of an index.

    faiss_index: description for `faiss.index_factory`, such as "Flat" (exact) or "HNSW32". neighbours: edges of an item
    in the graphs of usearch and hnswlib. build, search: how many candidates are kept while the graph is built and
    searched; more is slower and finds more. min_recall: smallest recall at which the index is written.
    """

    faiss_index: str = "Flat"
    neighbours: int = 32
    build: int = 200
    search: int = 200
    min_recall: float = 0.9

    def __post_init__(self) -> None:
        for name, least, most in (("neighbours", 2, 512), ("build", 1, 10_000), ("search", 1, 10_000)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} = {getattr(self, name)}: must be between {least} and {most}")
        if not 0 <= self.min_recall <= 1:
            raise InputError(f"min_recall = {self.min_recall}: must be between 0 and 1")


# (queries [Q, d], k) → (scores [Q, k], higher is better; keys int64 [Q, k], −1 where nothing was found)
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def write_index(
    tables: Tables,
    path: Path,
    settings: Settings,
    name: str,
    build: Callable[[np.ndarray, np.ndarray, Path], dict[str, Any]],
    load: Callable[[Path], Search],
) -> Exported:
    """Write the folder of an index: the index `name`, items.parquet, users.parquet and index.json.

    build: writes the index of (vectors, keys) to a file and returns entries for index.json. load: reads this file. The
    recall is that of the index as it is read. Raises InputError if it is below `settings.min_recall`.
    """
    indexed = tables.indexed
    vectors, keys = tables.items[indexed], tables.keys[indexed]
    if not len(vectors):
        raise InputError(f"{path}: all item embeddings are zero, so there is nothing to index; use --to parquet")
    notes = tables.notes()
    if not indexed.all():
        notes[-1] += "; they are left out of the index"
    if not tables.keys_are_ids:
        notes.append("item ids are not integers from 0 to 2⁶³ - 1: the keys of the index are the rows of items.parquet")
    with whole_folder(path) as folder:
        try:
            about = build(vectors, keys, folder / name)
            recall = recall_at(load(folder / name), tables.users, vectors, keys)
        except RuntimeError as error:  # what the C++ libraries raise, for a full disk too
            reason = first_line(error)
            raise InputError(f"{path}: {name} cannot be written ({reason}); choose another folder") from None
        if lowest := [k for k, value in recall.items() if value < settings.min_recall]:
            raise InputError(
                f"{path}: the index finds {recall[lowest[0]]:.4f} of the best {lowest[0]} items, less than "
                f"{settings.min_recall}; raise --search, --build or --neighbours, or use --to faiss, which is exact"
            )
        _write_tables(tables, indexed, folder)
        facts = {
            "file": name,
            **about,
            "metric": "inner product",
            "dimensions": int(vectors.shape[1]),
            "vectors": len(vectors),
            "left_out": int((~indexed).sum()),
            "keys": "item ids" if tables.keys_are_ids else "rows of items.parquet",
            "recall": {f"recall@{k}": value for k, value in recall.items()},
            "model": tables.metadata,
        }
        (folder / "index.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(sorted(path.iterdir()), notes, recall)


def recall_at(search: Search, users: np.ndarray, vectors: np.ndarray, keys: np.ndarray) -> dict[int, float]:
    """{K: recall of the lists of an index}, averaged over at most 1000 users, evenly spaced.

    An item in a list counts if its exact score is at least that of the K-th best item. Thus it does not matter which of
    several items with equal scores a library returns; equal up to float32 rounding counts as equal.
    """
    there = np.flatnonzero((users != 0).any(1))
    chosen = there[np.unique(np.linspace(0, len(there) - 1, min(SAMPLE, len(there))).astype(int))] if len(there) else []
    queries = users[chosen]
    lengths = sorted({min(k, len(vectors)) for k in LENGTHS})
    if not len(queries):
        return dict.fromkeys(lengths, 1.0)
    order = np.argsort(keys)
    best = cosine_topk(torch.from_numpy(queries), torch.from_numpy(vectors), lengths[-1], kind="dot")[0].numpy()
    size = np.linalg.norm(queries, axis=1) * np.linalg.norm(vectors, axis=1).max()
    tolerance = (size * vectors.shape[1] * np.finfo(np.float32).eps)[:, None]
    recall = {}
    for k in lengths:
        found = search(queries, k)[1]
        known = np.isin(found, keys)
        rows = order[np.minimum(np.searchsorted(keys, found, sorter=order), len(keys) - 1)]
        scores = np.einsum("qd,qkd->qk", queries, vectors[rows])
        distinct = np.array([len(np.unique(row[row >= 0])) == (row >= 0).sum() for row in found])
        hits = known & (scores >= best[:, k - 1 : k] - tolerance) & distinct[:, None]
        recall[k] = float(hits.sum(1).mean() / k)
    return recall


def _write_tables(tables: Tables, indexed: np.ndarray, folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    keys = pa.array(tables.keys, pa.int64(), mask=~indexed)
    items = {"key": keys, "item": arrow_ids(tables.item_ids), "interactions": tables.item_interactions}
    parquet.write_table(pa.table(items), folder / "items.parquet")
    users = {"user": arrow_ids(tables.user_ids), "embedding": vectors_column(tables.users)}
    parquet.write_table(pa.table(users), folder / "users.parquet")


def vectors_column(vectors: np.ndarray) -> Any:
    """float32 [n, d] as an Arrow column of lists of d numbers."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
