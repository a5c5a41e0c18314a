"""The best items for users of a trained model, by their original ids, to CSV or Parquet."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mmssl_fast import InteractionGraph

from ..data import Dataset
from ..errors import InputError
from ..files import write_with
from ..ranking import Ranking, check_list_lengths, item_popularity, users_at_once
from .saved_model import Model

COLUMNS = ("user", "rank", "item", "score")
EXCLUDE = ("train", "all")


class Recommendations(NamedTuple):
    """Rows of the answer, users in the order asked, best item first. user, item: original ids [n]; rank: int64 from 1;
    score: float32, the dot product of the embeddings, 0 where one of them is zero and popularity decides."""

    user: np.ndarray
    rank: np.ndarray
    item: np.ndarray
    score: np.ndarray


def recommend(
    model: Model, users: Sequence[str | int] | None = None, k: int = 20, exclude: str = "train", batch: int = 4096
) -> Iterator[Recommendations]:
    """The k best items of each user in the order of `ranking.Ranking`, at most `batch` users at a time; what is tied to
    the end comes by a hash of the items' ids.

    users: original ids, as int or text; None: all. k: from 1 to the number of items; a user with fewer left gets those.
    exclude: "train" leaves out the training interactions (as evaluation does), "all" those of validation and test too.
    Raises InputError naming the first unknown user id, or for a k above the catalogue (up to 50 is always allowed).
    """
    check_list_lengths("k", [k], model.interactions.n_items)
    if exclude not in EXCLUDE:
        raise InputError(f"exclude = {exclude!r}: choose {' or '.join(EXCLUDE)}")
    known = model.interactions
    index = np.arange(known.n_users) if users is None else known.find_users(list(users))
    return _chunks(model, known, torch.from_numpy(index), k, _seen(known, exclude), batch)


def by_popularity(model: Model, users: Sequence[str | int] | None = None) -> int:
    """How many of these users have an embedding of zero, so that popularity alone makes their lists."""
    known = model.interactions
    zero = (model.users == 0).all(1).numpy()
    return int(zero.sum() if users is None else zero[known.find_users(list(users))].sum())


def popularity_note(count: int) -> str:
    """What to say of so many users whose embedding is zero."""
    who = "1 user has" if count == 1 else f"{count:,} users have"
    return f"{who} no training interactions to go by; their lists are the most popular items, with score 0"


def _seen(known: Dataset, exclude: str) -> InteractionGraph:
    seen = known.train if exclude == "train" else known.train.maximum(known.val).maximum(known.test)
    return InteractionGraph.from_scipy(seen)


def _hashes(ids: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each id's text, uint64 [n]: the same wherever the id stands."""
    digests = b"".join(hashlib.blake2b(str(one).encode(), digest_size=8).digest() for one in ids.tolist())
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _chunks(model, known, index, k, seen, batch) -> Iterator[Recommendations]:
    labels = _hashes(known.original_items(np.arange(known.n_items)))
    ranking = Ranking(model.items, item_popularity(known), seen, labels)
    for chunk in index.split(users_at_once(batch, k)):
        values, items = ranking.best(model.users[chunk], chunk, k)
        there = (items >= 0).numpy()
        row, column = np.nonzero(there)
        yield Recommendations(
            known.original_users(chunk.numpy()[row]),
            column + 1,
            known.original_items(items.numpy()[there]),
            values.numpy()[there],
        )


def write(chunks: Iterator[Recommendations], path: str | Path) -> int:
    """Write recommendations to `path`, CSV or Parquet by its extension, whole or not at all; returns the rows written.

    Columns user, rank, item, score. Raises InputError for another extension or where `path` cannot be written.
    """
    path = Path(path)
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: the extension must be .csv or .parquet")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    rows = 0

    def counted():
        nonlocal rows
        for chunk in chunks:
            rows += len(chunk.user)
            yield chunk

    write_with(path, lambda temporary: writers[path.suffix.lower()](counted(), temporary))
    return rows


def _write_csv(chunks, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for chunk in chunks:
            score = chunk.score.astype(str)  # the shortest text that reads back as the same float32
            out.writerows(zip(chunk.user.tolist(), chunk.rank.tolist(), chunk.item.tolist(), score, strict=True))


def _write_parquet(chunks, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def id_type(ids):
        return pa.int64() if ids.dtype.kind in "iu" else pa.string()

    def table(chunk):
        ids = {name: pa.array(ids.tolist(), id_type(ids)) for name, ids in (("user", chunk.user), ("item", chunk.item))}
        return pa.table({name: ids.get(name, getattr(chunk, name)) for name in COLUMNS})

    first = next(chunks, None)
    if first is None:
        first = Recommendations(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.int64, np.float32)))
    opening = table(first)
    with parquet.ParquetWriter(path, opening.schema) as out:
        out.write_table(opening)
        for chunk in chunks:
            out.write_table(table(chunk))
