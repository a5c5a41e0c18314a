"""The k-core of interactions: what is left when users and items with few interactions are removed repeatedly."""

from __future__ import annotations

import numpy as np


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """bool [n]: the rows in the k-core, the largest part in which every user and every item has at least k distinct
    pairs. users, items: int64 [n], codes from 0.

    Seidman, Network structure and minimum degree, Social Networks 5, 1983.
    """
    order = np.lexsort((items, users))
    left_users, left_items = users[order], items[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(left_users) != 0) | (np.diff(left_items) != 0)
    left_users, left_items = left_users[is_first], left_items[is_first]
    while True:
        enough = (np.bincount(left_users)[left_users] >= k) & (np.bincount(left_items)[left_items] >= k)
        if enough.all():
            break
        left_users, left_items = left_users[enough], left_items[enough]
    in_core = []
    for side, left in ((users, left_users), (items, left_items)):
        kept = np.zeros(int(side.max(initial=-1)) + 1, bool)
        kept[left] = True
        in_core.append(kept[side])
    return in_core[0] & in_core[1]


def only_used(index: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(index [n] into what is used, their ids, their indices before) of the users or items that occur in `index`.

    ids: original ids; None if they are the indices.
    """
    used, new_index = np.unique(index, return_inverse=True)
    return new_index.reshape(-1), used if ids is None else ids[used], used
