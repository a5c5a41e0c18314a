"""What all drivers share: the training pairs, the lists that a library returns, and their evaluation.

Runs in the environment of each library, so it needs only NumPy and pyarrow.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
from pyarrow import parquet

K = 20


class Catalogue:
    """DATA/interactions.parquet (user, item, split) and the <modality>_feat.npy beside it, whose rows are the items of
    items.parquet. Users and items are those of the training part, numbered by ascending id.

    user_ids, item_ids: their ids. users, items: int64 [n], the pairs. ratings: of the pairs. val_users, val_items: the
    pairs of validation, which a library that stops early gets. test_users: indices of the users with test items. truth:
    {user id: test item ids}.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = parquet.read_table(folder / "interactions.parquet").to_pydict()
        split = np.array(table["split"])
        user, item = np.array(table["user"]), np.array(table["item"])
        training = split == "train"
        self.user_ids, self.users = np.unique(user[training], return_inverse=True)
        self.item_ids, self.items = np.unique(item[training], return_inverse=True)
        self.ratings = np.array(table["rating"], np.float64)[training]
        known = (split == "val") & np.isin(user, self.user_ids) & np.isin(item, self.item_ids)
        self.val_users, self.val_items = (
            np.searchsorted(self.user_ids, user[known]),
            np.searchsorted(self.item_ids, item[known]),
        )
        self.test_users = np.flatnonzero(np.isin(self.user_ids, user[split == "test"]))
        self.truth: dict[int, set[int]] = {}
        for one, other in zip(user[split == "test"].tolist(), item[split == "test"].tolist(), strict=True):
            self.truth.setdefault(one, set()).add(other)

    def matrix(self):
        """The training pairs as a SciPy CSR matrix of ones, float32 [users, items]."""
        from scipy.sparse import csr_matrix

        ones = np.ones(len(self.users), np.float32)
        return csr_matrix((ones, (self.users, self.items)), (len(self.user_ids), len(self.item_ids)))

    def frame(self, user: str = "user", item: str = "item", **constants: object):
        """The training pairs as a pandas frame with the original ids, and further columns of one value."""
        import pandas as pd

        return pd.DataFrame({user: self.user_ids[self.users], item: self.item_ids[self.items], **constants})

    def features(self, modality: str) -> np.ndarray:
        """float32 [items, d], in the order of item_ids."""
        rows = {
            item: row for row, item in enumerate(parquet.read_table(self.folder / "items.parquet")["item"].to_pylist())
        }
        values = np.load(self.folder / f"{modality}_feat.npy")
        return values[[rows[item] for item in self.item_ids.tolist()]].astype(np.float32)


class Driver:
    """A library on a catalogue. `fitted` times what trains a model, without what runs inside `left_out`."""

    def __init__(self, library: str, *packages: str) -> None:
        self.versions = {name: metadata.version(name) for name in (library, *packages)}
        self.library, self.data = library, Catalogue(Path(sys.argv[1]))
        self.out, self.only = Path(*sys.argv[2:3]), sys.argv[3:]
        self.seconds = self.other = 0.0

    @contextmanager
    def fitted(self) -> Iterator[None]:
        """Seconds of processor time of this process."""
        started, self.other = time.process_time(), 0.0
        yield
        self.seconds = time.process_time() - started - self.other

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Inside `fitted`: what a library does during training that the others do not, such as validation."""
        started = time.process_time()
        yield
        self.other += time.process_time() - started

    def run(self, models: dict[str, Callable[[], Iterable[tuple[int, Iterable[int]]]]]) -> None:
        """models: {name: function that trains and returns (user id, its best item ids) of every test user}. Each writes
        its result to OUT/<library>-<name>.json."""
        self.out.mkdir(parents=True, exist_ok=True)
        if unknown := set(self.only) - set(models):
            raise SystemExit(f"{self.library}: no such model: {', '.join(sorted(unknown))}; one of {', '.join(models)}")
        for name, function in models.items():
            self.seconds = 0.0
            if self.only and name not in self.only:
                continue
            try:
                lists = {int(user): [int(item) for item in items][:K] for user, items in function()}
                result = evaluated(lists, self.data)
            except Exception as error:  # one model's fault is a row of the table, not the end of the run
                result = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            result |= {"library": self.library, "versions": self.versions, "model": name, "seconds": self.seconds}
            path = self.out / f"{self.library}-{name.replace(' ', '_').replace('/', '_')}.json"
            path.write_text(json.dumps(result))
            print(json.dumps(result), flush=True)


def evaluated(lists: dict[int, list[int]], data: Catalogue) -> dict[str, float]:
    """Recall@20 and NDCG@20, means over all users with test items. A user without a list counts as 0. Raises if a list
    contains an item twice or one of training."""
    seen: dict[int, set[int]] = {}
    for user, item in zip(data.user_ids[data.users].tolist(), data.item_ids[data.items].tolist(), strict=True):
        seen.setdefault(user, set()).add(item)
    recalls, gains = [], []
    for user, right in data.truth.items():
        found = lists.get(user, [])
        if len(set(found)) < len(found) or seen.get(user, set()) & set(found):
            raise ValueError(f"the list of user {user} contains an item twice or a training item")
        hits = [item in right for item in found]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(right), K)))
        recalls.append(sum(hits) / len(right))
        gains.append(sum(hit / math.log2(place + 2) for place, hit in enumerate(hits)) / ideal)
    short = sum(len(lists.get(user, [])) < K for user in data.truth)
    return {"recall": float(np.mean(recalls)), "ndcg": float(np.mean(gains)), "users": len(recalls), "short": short}


def one_thread() -> None:
    """Every library that asks one of these variables uses one thread. Call it before they are imported."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "RAYON", "LK"):
        os.environ[f"{name}_NUM_THREADS"] = "1"


one_thread()
