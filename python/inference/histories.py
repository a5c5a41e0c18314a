"""Users with a history but no embedding: fold-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..data import Dataset
from ..data.arrow import numbers_or_texts
from ..data.dataset import id_list, refuse_floats
from ..embeddings import zeros
from ..errors import InputError, shown
from ..ranking import item_popularity
from ..runs.saved_model import Model
from .towers import user_tower

UNKNOWN = ("refuse", "skip")
AT_ONCE = 1 << 14  # users

Id = str | int


def fold_in(model: Model, histories: Sequence[Sequence[Id]], unknown: str = "refuse") -> Tensor:
    """User embeddings [n, d] from histories of items, by the propagation of the model. Nothing is trained.

    Equals what the layers of the model compute for a user with these items, without an id embedding, which only
    training gives. Scores are dot products with model.items. Each history is a set: the order and repetitions do not
    matter.

    histories: original item ids of every user, int or text. unknown: "refuse" raises InputError for an item that was
    not in the training data, "skip" ignores it. A history without known items gives a zero embedding. Also raises
    InputError if the system cannot do it: MF-BPR, VBPR, CLCRec, GRCN, EASE, ItemKNN and UserKNN.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> fold_in(model, [[3, 8], [5]]).shape
    torch.Size([2, 64])
    """
    return embed(model, history_rows(_trained(model), histories, unknown))


def with_histories(
    model: Model, histories: Mapping[Any, Sequence[Id]], unknown: str = "refuse", by_popularity: bool = False
) -> Model:
    """The model with the users {id: history} in place of its own. Their histories are the training interactions, so
    that `recommend` excludes them.

    by_popularity: give a zero embedding to all users, for whom the most popular items are recommended, instead of
    raising InputError for a system that cannot embed a history.
    """
    data = model.interactions
    names: set[str] = set()
    for user in map(str, histories):
        if user in names:
            raise InputError(f"histories: the user {shown(user)} occurs as a number and as text; keep only one")
        names.add(user)
    known = history_rows(_trained(model), list(histories.values()), unknown, data, list(histories))
    own = sp.csr_array(known[:, : _trained(model).n_items])
    users = zeros(len(histories), model.items) if by_popularity else embed(model, own)
    none = sp.csr_array(known.shape, dtype=np.float32)
    interactions = replace(
        data,
        n_users=len(histories),
        user_ids=numbers_or_texts([str(user) for user in histories]),
        train=known,
        val=none,
        test=none,
        fingerprint="",
        weights=None,
        notes=[],
    )
    popularity = item_popularity(data) if model.popularity is None else model.popularity
    return replace(model, users=users, interactions=interactions, popularity=popularity, base=model.base or model)


@torch.no_grad()
def embed(model: Model, rows: sp.csr_array) -> Tensor:
    """User embeddings [n, d] of the histories rows [n, I], SciPy CSR with sorted columns."""
    tower, blocks = user_tower(model), []
    for first in range(0, max(1, rows.shape[0]), AT_ONCE):
        block = rows[first : first + AT_ONCE]
        crow, col = (torch.from_numpy(part.astype(np.int64)) for part in (block.indptr, block.indices))
        blocks.append(tower(crow, col))
    return torch.cat(blocks)


def history_rows(
    trained: Dataset,
    histories: Sequence[Sequence[Id]],
    unknown: str = "refuse",
    extended: Dataset | None = None,
    names: Sequence[Id] | None = None,
) -> sp.csr_array:
    """Histories as SciPy CSR float32 [n, I]. extended: a dataset with more items after those of `trained`, which are
    known too; its number of items is then that of the columns. names: of the users, for messages; default: 0, 1, …"""
    if unknown not in UNKNOWN:
        raise InputError(f"unknown = {unknown!r}: must be {' or '.join(UNKNOWN)}")
    data = extended or trained
    histories = [id_list(history, "history") for history in id_list(histories, "histories")]
    for history in histories:
        refuse_floats(history, data.item_index, "histories: item")
    found = [[data.item_index.get(str(item), -1) for item in history] for history in histories]
    sizes = [len(history) for history in found]
    columns = np.fromiter(chain.from_iterable(found), np.int64, sum(sizes))
    rows = np.repeat(np.arange(len(found)), sizes)
    if unknown == "refuse" and (columns < 0).any():
        first: dict[str, int] = {}  # unknown item → the first history with it
        for row, history in enumerate(histories):
            for item in map(str, history):
                if item not in data.item_index:
                    first.setdefault(item, row)
        missing = [f"{shown(item)} in histories[{shown(names[row] if names else row)}]" for item, row in first.items()]
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        counted = "1 item of the histories was" if len(missing) == 1 else f"{len(missing)} items of the histories were"
        raise InputError(
            f"{data.name}: {counted} not in the training data: {listed}; leave them out, or give unknown='skip'"
        )
    kept = columns >= 0
    shape = (len(found), data.n_items)
    matrix = sp.csr_array((np.ones(kept.sum(), np.float32), (rows[kept], columns[kept])), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _trained(model: Model) -> Dataset:
    """The dataset whose items have an embedding from training."""
    return (model.base or model).interactions
