"""Functions for evaluation on all items: the best unseen items of users in one pass, and which of them are hits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..graph import SeenRows
from ..ops.cosine_topk import cosine_topk

Ids = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def best_unseen(users: Tensor, items: Tensor, seen: Ids, k: int) -> Ids:
    """Equals ``(users @ items.T).masked_fill(seen, -inf).topk(k).indices``, -1 if fewer than k items are unseen.

    users [B, d], items [I, d]; seen: `pair_keys` of the items to exclude. Of equal scores, the lower item comes first.
    """
    n_items = items.shape[0]
    crow = np.searchsorted(seen, np.arange(users.shape[0] + 1) * n_items)
    rows = SeenRows(torch.from_numpy(crow).to(users.device), torch.from_numpy(seen % n_items).to(users.device))
    best: Ids = cosine_topk(users, items, k, rows, "dot")[1].cpu().numpy()
    return best


def hits_of(best: Ids, wanted: Ids, n_items: int) -> Flags:
    """bool [B, k]: whether best[b, r] is one of the items of row b in `wanted`, the result of `pair_keys`."""
    return np.isin(best + np.arange(len(best))[:, None] * n_items, wanted) & (best >= 0)


def pair_keys(lists: Sequence[Sequence[int]], n_items: int) -> Ids:
    """row * n_items + item of every item in lists[row], ascending and distinct."""
    counts = [len(items) for items in lists]
    items = np.fromiter(chain.from_iterable(lists), np.int64, sum(counts))
    return np.unique(np.repeat(np.arange(len(lists)), counts) * n_items + items)
