"""The seeded 8:1:1 split per user."""

import numpy as np


def split_per_user(users, items, seed=0):
    """{split: (users, items)}: of each user's n items max(1, n // 10) for validation, as many for testing, the rest
    for training.

    A user with one or two items keeps them in training. Duplicate pairs count once. users, items: int64 [n] indices.
    Which items go where depends on the seed and the pair of indices only (a 64-bit hash orders each user's items), so
    not on the order of the file, the platform or the NumPy version.
    """
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    order = np.lexsort((items, _hash(users, items, seed), users))
    users, items = users[order], items[order]
    new = np.ones(len(users), bool)
    new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    users, items = users[new], items[new]
    begin = np.flatnonzero(np.diff(users, prepend=-1))
    degree = np.diff(begin, append=len(users))
    place = np.arange(len(users)) - np.repeat(begin, degree)
    held = np.repeat(np.where(degree >= 3, np.maximum(1, degree // 10), 0), degree)
    splits = {"test": place < held, "val": (place >= held) & (place < 2 * held), "train": place >= 2 * held}
    return {split: (users[chosen], items[chosen]) for split, chosen in splits.items()}


def split_and_note(users, items, seed, notes):
    """split_per_user, with a line in `notes` that says so and one for duplicate pairs."""
    splits = split_per_user(users, items, seed)
    notes.append(f"split 8:1:1 per user with seed {seed}; users with fewer than 3 interactions keep them in training")
    duplicates = len(users) - sum(len(side[0]) for side in splits.values())
    if duplicates:
        notes.append(f"interactions: {duplicates} duplicate {'pair' if duplicates == 1 else 'pairs'} merged")
    return splits


def _hash(users, items, seed):
    """splitmix64 of (seed, user, item), uint64 [n]."""
    seed = np.full(1, int(seed) % 2**64, np.uint64)
    return _mix(_mix(_mix(seed) + users.astype(np.uint64)) + items.astype(np.uint64))


def _mix(z):
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
