"""What is asked of a ranking: list lengths and splits, checked, and how many users are ranked at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError

DEFAULT_KS = (10, 20, 50)
LIST_ENTRIES = 1 << 19  # limit on the total length of the lists that are ranked at once


def check_list_lengths(name: str, ks: Sequence[int], n_items: int) -> None:
    """Raise InputError for no list length K, one that is not an integer, one below 1, or one above both the number of
    items and the default lengths."""
    lengths = list(ks) if isinstance(ks, Iterable) and not isinstance(ks, (str, bytes)) else []
    if not lengths or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) for k in lengths):
        raise InputError(f"{name} = {ks!r}: must be integers, such as [20]")
    if any(not 1 <= k <= max(n_items, *DEFAULT_KS) for k in lengths):
        raise InputError(f"{name} {list(ks)}: each must be between 1 and {n_items}, the number of items")


def check_heldout(split: str) -> None:
    """Raise InputError if it is not the name of a split that models are evaluated on."""
    if split not in ("test", "val"):
        raise InputError(f"split = {split!r}: must be test or val")


def users_at_once(batch: int, k: int) -> int:
    """Number of users to rank at once: `batch`, or fewer if their lists of k items would need much memory."""
    return max(1, min(batch, LIST_ENTRIES // k))
