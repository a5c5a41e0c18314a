"""Which items may be recommended, and which pairs may not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from ..data import SPLITS
from ..data.dataset import id_list, refuse_floats
from ..embeddings import take
from ..errors import InputError, shown
from ..ranking import item_popularity
from ..runs.saved_model import Model

Id = str | int


def with_candidates(model: Model, items: Iterable[Id]) -> Model:
    """The model with these items only, in its own order. Ids that the model does not have are ignored.

    Raises InputError if none is left.
    """
    data = model.interactions
    ids: list[Id] = id_list(items, "candidates")
    refuse_floats(ids, data.item_index, "candidates: item")
    found = {index for item in ids if (index := data.item_index.get(str(item))) is not None}
    if not found:
        such = f" (the first: {shown(str(ids[0]))})" if ids else ""
        raise InputError(f"{data.name}: none of the candidates is an item of the model{such}; give ids as in the data")
    kept = np.array(sorted(found))
    popularity = item_popularity(data) if model.popularity is None else model.popularity
    return replace(
        model,
        items=take(model.items, torch.from_numpy(kept)),
        interactions=replace(
            data,
            n_items=len(kept),
            item_ids=data.original_items(kept),
            fingerprint="",
            weights=None,
            **{split: sp.csr_array(getattr(data, split)[:, kept]) for split in SPLITS},
        ),
        popularity=popularity[kept],
        base=model.base or model,
    )


def pairs_of(model: Model, users: Sequence[Id], items: Sequence[Id]) -> sp.csr_array:
    """The pairs (users[n], items[n]) of original ids as SciPy CSR float32 [U, I]. Pairs with an unknown user or item
    are ignored: they cannot be recommended."""
    data = model.interactions
    refuse_floats(users, data.user_index, "pairs to exclude: user")
    refuse_floats(items, data.item_index, "pairs to exclude: item")
    rows = np.array([data.user_index.get(str(user), -1) for user in users], np.int64)
    columns = np.array([data.item_index.get(str(item), -1) for item in items], np.int64)
    kept = (rows >= 0) & (columns >= 0)
    matrix = sp.csr_array(
        (np.ones(int(kept.sum()), np.float32), (rows[kept], columns[kept])), shape=(data.n_users, data.n_items)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
