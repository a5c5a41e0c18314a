"""The items that are most similar to an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mmssl_fast import SeenRows, cosine_topk

from ..embeddings import dense
from ..errors import InputError, shown
from ..runs.saved_model import Model
from .new_items import known_by_features

EMBEDDINGS = ("all", "features")


class Similar(NamedTuple):
    """Similar items as columns: the given items in their order, the most similar of each first.

    item, similar: original ids [n]. rank: int64 [n], from 1. cosine: float32 [n], cosine of the two embeddings.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "svd"}))
    >>> found = similar(model, [7], k=2)
    >>> found.item.tolist(), found.rank.tolist(), found.similar.shape
    ([7, 7], [1, 2], (2,))
    """

    item: np.ndarray
    rank: np.ndarray
    similar: np.ndarray
    cosine: np.ndarray


def similar(model: Model, items: Sequence[str | int], k: int = 20, by: str = "all") -> Similar:
    """The k items whose embedding has the highest cosine with that of each given item, which itself is left out.

    items: original ids. by: "all" compares the embeddings that score the items (model.items), so that items are similar
    if the same users choose them; "features" those by features alone (`embed_items`). Items with a zero embedding,
    about which nothing is known, are never similar. Raises InputError that names an unknown item, or one with a zero
    embedding.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> similar(model, [3], k=2).rank.tolist()
    [1, 2]
    """
    data = model.interactions
    if by not in EMBEDDINGS:
        raise InputError(f"by = {by!r}: must be {' or '.join(EMBEDDINGS)}")
    if not isinstance(k, (int, np.integer)) or not 1 <= k < max(2, data.n_items):
        raise InputError(f"k = {k}: must be between 1 and {data.n_items - 1}, the number of other items")
    index = torch.from_numpy(data.find_items(items))
    table = dense(model.items, "similar") if by == "all" else known_by_features(model)
    if by == "features" and len(table) < data.n_items:
        raise InputError("by = 'features': works only for items of the training data")
    there = (table != 0).any(1)
    if not there[index].all():
        why = "it has no training interactions" if by == "all" else "its features are 0"
        item = data.original_items(index[~there[index]][:1].numpy()).tolist()[0]
        raise InputError(f"{data.name}: nothing is known about the item {shown(item)}: {why}")
    candidates = there.nonzero()[:, 0]
    place = torch.cumsum(there, 0) - 1
    own = SeenRows(torch.arange(len(index) + 1), place[index])
    cosine, found = cosine_topk(table[index], table[candidates], min(k, len(candidates)), own)
    rows, columns = (found >= 0).nonzero(as_tuple=True)
    return Similar(
        data.original_items(index[rows].numpy()),
        columns.numpy() + 1,
        data.original_items(candidates[found[rows, columns]].numpy()),
        cosine[rows, columns].numpy(),
    )
