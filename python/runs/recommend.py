"""Recommendation lists of a trained model with original ids, in memory or as CSV or Parquet."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from mmssl_fast import InteractionGraph, distributed

from ..data import Dataset
from ..embeddings import dense, take, zero_rows
from ..errors import InputError
from ..files import write_with
from ..ranking import Ranking, check_list_lengths, item_popularity, users_at_once
from ..ranking.sums import passes
from .diversity import diverse, pool_size
from .saved_model import Model

COLUMNS = ("user", "rank", "item", "score")
EXCLUDE = ("train", "all")
ItemTexts = Mapping[str, Mapping[str, str]]  # {column: {item id as text: cell}}


class Recommendations(NamedTuple):
    """Recommendations as columns: users in the requested order, the best item of each first.

    user, item: original ids [n]. rank: int64 [n], from 1. score: float32 [n], the dot product of the embeddings. It
    is 0 if one of them is zero; popularity then decides the order.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> from mmssl_trainer import recommend as recommended
    >>> lists = recommended(fit(load_data(), configure({"model.system": "popularity"})), users=[0, 1], k=2)
    >>> lists.user.tolist(), lists.rank.tolist(), lists.item.shape
    ([0, 0, 1, 1], [1, 2, 1, 2], (4,))
    """

    user: np.ndarray
    rank: np.ndarray
    item: np.ndarray
    score: np.ndarray


def recommend(
    model: Model,
    users: Sequence[str | int] | None = None,
    k: int = 20,
    exclude: str = "train",
    batch: int = 4096,
    excluded: sp.csr_array | None = None,
    diversity: float = 0.0,
) -> Iterator[Recommendations]:
    """The k best items of each user in the order of `ranking.Ranking`, for at most `batch` users at a time. Items that
    are still tied are ordered by a hash of their ids.

    users: original ids, int or text; None: all users. k: from 1 to the number of items, or up to 50. A user with fewer
    items left gets a shorter list. exclude: "train" excludes the training interactions, as evaluation does; "all" also
    those of validation and test. excluded: more pairs to exclude, SciPy CSR [U, I]. diversity: from 0, the best items,
    to 1, the most different ones; see `diversity.diverse`. Over several processes the lists are those of this rank's
    users, and `users` must be None. Raises InputError that names the first unknown user, or for an invalid k.
    """
    # Candidates do not limit k: lists are shorter where fewer items are left.
    check_list_lengths("k", [k], max(one.interactions.n_items for one in (model, model.base or model)))
    if exclude not in EXCLUDE:
        raise InputError(f"exclude = {exclude!r}: must be {' or '.join(EXCLUDE)}")
    if not isinstance(diversity, (int, float)) or not 0 <= diversity <= 1:
        raise InputError(f"diversity = {diversity}: must be between 0 and 1")
    dataset = model.interactions
    seen = seen_interactions(dataset, exclude)
    if excluded is not None:
        seen = seen.maximum(excluded)
    if distributed.current().size > 1:
        if diversity:
            raise InputError(f"diversity = {diversity}: works with one process only; leave out --ranks or torchrun")
        return _chunks_of_rank(model, k, seen, batch)
    if diversity:
        dense(model.items, "diversity")
    index = np.arange(dataset.n_users) if users is None else dataset.find_users(users)
    return _chunks(model, torch.from_numpy(index), k, seen, batch, diversity)


def by_popularity(model: Model, users: Sequence[str | int] | None = None) -> int:
    """How many of these users have a zero embedding, so that their lists depend on popularity only."""
    zero = zero_rows(model.users).numpy()
    if users is not None:
        return int(zero[model.interactions.find_users(users)].sum())
    return int(distributed.all_sum(torch.tensor(zero.sum()), distributed.current()))


def popularity_note(count: int) -> str:
    """A sentence about the number of users with a zero embedding."""
    subject = "1 user has" if count == 1 else f"{count:,} users have"
    return f"{subject} no training interactions, so the most popular items are recommended, with score 0"


def seen_interactions(dataset: Dataset, exclude: str) -> sp.csr_array:
    return dataset.train if exclude == "train" else dataset.train.maximum(dataset.val).maximum(dataset.test)


def id_hashes(ids: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each id as text, uint64 [n], independent of its position."""
    digests = b"".join(hashlib.blake2b(str(item).encode(), digest_size=8).digest() for item in ids.tolist())
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _chunks_of_rank(model: Model, k: int, seen: sp.csr_array, batch: int) -> Iterator[Recommendations]:
    """`_chunks` for the users of this rank. All ranks rank together, because each has a part of the items."""
    dataset = model.interactions
    ranks = distributed.current()
    first, last = ranks.span(dataset.n_users)
    labels = id_hashes(dataset.original_items(np.arange(dataset.n_items)))
    own = InteractionGraph.from_scipy(seen[first:last])
    ranking = Ranking(model.items, popularity_of(model), own, labels, ranks)
    users = torch.arange(last - first)
    for group in passes(list(users.split(users_at_once(batch, k))), k, ranks):
        index = torch.cat([users[:0], *group])
        values, items = ranking.best(take(model.users, index), index, k)
        sizes = [len(chunk) for chunk in group]
        for chunk, *lists in zip(group, values.split(sizes), items.split(sizes), strict=True):
            yield _rows(dataset, chunk + first, *lists)


def _rows(dataset: Dataset, users: torch.Tensor, values: torch.Tensor, items: torch.Tensor) -> Recommendations:
    there = (items >= 0).numpy()
    row, column = np.nonzero(there)
    return Recommendations(
        dataset.original_users(users.numpy()[row]),
        column + 1,
        dataset.original_items(items.numpy()[there]),
        values.numpy()[there],
    )


def _chunks(
    model: Model, index: torch.Tensor, k: int, seen: sp.csr_array, batch: int, diversity: float
) -> Iterator[Recommendations]:
    dataset = model.interactions
    labels = id_hashes(dataset.original_items(np.arange(dataset.n_items)))
    ranking = Ranking(model.items, popularity_of(model), InteractionGraph.from_scipy(seen), labels)
    length = pool_size(k, dataset.n_items) if diversity else k
    # The pool has an embedding per entry.
    at_once = users_at_once(batch, length * model.items.shape[1] // 8 if diversity else length)
    for chunk in index.split(at_once):
        values, items = ranking.best(take(model.users, chunk), chunk, length)
        if diversity:
            values, items = diverse(values, items, dense(model.items, "diversity"), k, diversity)
        yield _rows(dataset, chunk, values, items)


def popularity_of(model: Model) -> np.ndarray:
    """The popularity that orders items with equal scores, int64 [I]."""
    return item_popularity(model.interactions) if model.popularity is None else model.popularity


def write(chunks: Iterator[Recommendations], path: str | Path, texts: ItemTexts | None = None) -> int:
    """Write recommendations atomically to a .csv or .parquet file. Returns the number of rows.

    The columns are user, rank, item and score, and those of texts: {column: {item id as text: what is written}}, empty
    for an item that is not there. Raises InputError for another extension or if the file cannot be written.
    """
    path = Path(path)
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: the extension must be .csv or .parquet")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    rows = 0

    def counted() -> Iterator[Recommendations]:
        nonlocal rows
        for chunk in chunks:
            rows += len(chunk.user)
            yield chunk

    write_with(path, lambda temporary: writers[path.suffix.lower()](counted(), temporary, texts or {}))
    return rows


def write_part(chunks: Iterator[Recommendations], folder: Path, texts: ItemTexts | None = None) -> int:
    """Write this rank's recommendations as part-00000-of-00004.csv and so on in a new or empty folder; returns the rows
    of all ranks. All ranks must call it. Raises InputError if the folder is not empty or cannot be written."""
    ranks = distributed.current()
    folder.mkdir(parents=True, exist_ok=True)
    occupied = torch.tensor(any(folder.iterdir()), dtype=torch.int64)
    if distributed.all_max(occupied, ranks):
        raise InputError(f"{folder}: is not empty; give another folder with --out")
    count = write(chunks, folder / f"part-{ranks.rank:05d}-of-{ranks.size:05d}.csv", texts)
    return int(distributed.all_sum(torch.tensor(count), ranks))


def texts_of(items: np.ndarray, texts: ItemTexts) -> list[list[str]]:
    """The cells of these items in each column of texts, "" for an item that is not there."""
    ids = list(map(str, items.tolist()))
    return [[cells.get(item, "") for item in ids] for cells in texts.values()]


def _write_csv(chunks: Iterator[Recommendations], path: Path, texts: ItemTexts) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow([*COLUMNS, *texts])
        for chunk in chunks:
            score = chunk.score.astype(str)  # the shortest text that reads back as the same float32
            columns = [chunk.user.tolist(), chunk.rank.tolist(), chunk.item.tolist(), score]
            out.writerows(zip(*columns, *texts_of(chunk.item, texts), strict=True))


def _write_parquet(chunks: Iterator[Recommendations], path: Path, texts: ItemTexts) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def id_type(ids: np.ndarray) -> Any:
        return pa.int64() if ids.dtype.kind in "iu" else pa.string()

    def table(chunk: Recommendations) -> Any:
        ids = {name: pa.array(ids.tolist(), id_type(ids)) for name, ids in (("user", chunk.user), ("item", chunk.item))}
        columns = {name: ids.get(name, getattr(chunk, name)) for name in COLUMNS}
        cells = zip(texts, texts_of(chunk.item, texts), strict=True)
        return pa.table(columns | {name: pa.array([cell or None for cell in own], pa.string()) for name, own in cells})

    first = next(chunks, None)
    if first is None:
        first = Recommendations(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.int64, np.float32)))
    opening = table(first)
    with parquet.ParquetWriter(path, opening.schema) as out:
        out.write_table(opening)
        for chunk in chunks:
            out.write_table(table(chunk))
