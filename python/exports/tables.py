"""What is exported: the embeddings and ids of a model as NumPy arrays, and the keys of items in an index."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..embeddings import dense
from ..runs.recommend import popularity_of
from ..runs.saved_model import Model


@dataclass(frozen=True)
class Exported:
    """What `export` has written. files: in order of their names. notes: a line for everything that a reader of the
    files should know. recall: of an index, at each list length K; empty for other formats."""

    files: list[Path]
    notes: list[str] = field(default_factory=list)
    recall: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """The exported tables of a model, in the order of its rows.

    users [U, d], items [I, d]: float32 embeddings. user_ids, item_ids: original ids, int64 or an object array of str.
    user_interactions, item_interactions: int64, the number of training interactions. metadata: that of the model.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_interactions: np.ndarray
    item_interactions: np.ndarray
    metadata: dict[str, str]

    @classmethod
    def of(cls, model: Model) -> Tables:
        dataset = model.interactions
        return cls(
            np.ascontiguousarray(dense(model.users, "export").numpy()),
            np.ascontiguousarray(dense(model.items, "export").numpy()),
            dataset.original_users(np.arange(dataset.n_users)),
            dataset.original_items(np.arange(dataset.n_items)),
            np.diff(dataset.train.indptr).astype(np.int64),
            popularity_of(model).astype(np.int64),
            {name: str(value) for name, value in model.metadata.items()},
        )

    @property
    def keys_are_ids(self) -> bool:
        """Whether the original item ids are the keys of an index.

        Keys are integers. faiss has int64 and −1 for "nothing found"; usearch and hnswlib have uint64, to which a
        negative integer wraps around, and usearch never finds the key 2⁶⁴ − 1. Ids that are texts or negative therefore
        get their row as key.
        """
        return self.item_ids.dtype.kind in "iu" and bool((self.item_ids >= 0).all())

    @property
    def keys(self) -> np.ndarray:
        """int64 [I]: the key of every item in an index."""
        return self.item_ids.astype(np.int64) if self.keys_are_ids else np.arange(len(self.item_ids), dtype=np.int64)

    @property
    def indexed(self) -> np.ndarray:
        """bool [I]: the items that an index holds, those whose embedding is not zero.

        A zero embedding has the score 0 for everybody, and would stand before all items with a negative score.
        `ranking.Ranking` puts these items last.
        """
        return (self.items != 0).any(1)

    def notes(self) -> list[str]:
        """Lines about embeddings that are zero."""
        lines = []
        if count := int((~(self.users != 0).any(1)).sum()):
            lines.append(f"{count:,} users have a zero embedding: all their scores are 0; give them popular items")
        if count := int((~self.indexed).sum()):
            lines.append(f"{count:,} items have a zero embedding: their score is 0 for every user and has no meaning")
        return lines


def arrow_ids(ids: np.ndarray) -> Any:
    """Ids as an Arrow array: int64, or text."""
    import pyarrow as pa

    return pa.array(ids.tolist(), pa.int64() if ids.dtype.kind in "iu" else pa.string())
