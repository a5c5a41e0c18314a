"""Splits into training, validation and testing: by chance for each user, by time, or each user's latest."""

import numpy as np

from ..errors import InputError


def split_per_user(users, items, seed=0, share=0.1):
    """{split: (users, items)}: of each user's n items max(1, floor(share n)) for validation, as many for testing, the
    rest for training.

    A user with one or two items keeps them in training. Duplicate pairs count once. users, items: int64 [n] indices.
    Which items go where depends on the seed and the pair of indices only (a 64-bit hash orders each user's items), so
    not on the order of the file, the platform or the NumPy version.
    """
    users, items, place, degree = _placed(users, items, seed)
    held = np.where(degree >= 3, np.maximum(1, np.floor(degree * share + 1e-9)), 0)
    held = np.minimum(held, (degree - 1) // 2)
    return _cut(users, items, place, held)


def split_latest(users, items, times, count=1, seed=0):
    """{split: (users, items)}: each user's latest `count` items for testing, the `count` before them for validation.

    A user with fewer than 2 count + 1 items keeps them in training. A pair that occurs more than once counts where it
    occurs first; items of the same time are ordered by the seed, as in split_per_user.
    """
    users, items, times = _earliest(users, items, times)
    users, items, place, degree = _placed(users, items, seed, times)
    return _cut(users, items, place, np.where(degree > 2 * count, count, 0))


def split_by_time(users, items, times, share=0.1):
    """{split: (users, items)}: of all pairs in the order of time the last `share` for testing, the `share` before them
    for validation. Pairs of the same time stay together, in the later part; a pair that occurs more than once counts
    where it occurs first."""
    users, items, times = _earliest(users, items, times)
    ordered = np.sort(times)
    at = [int(len(times) - np.floor(part * share * len(times) + 1e-9)) for part in (2, 1)]
    begin = [ordered[min(one, len(ordered) - 1)] if len(ordered) else 0 for one in at]
    tested = times >= begin[1]
    validated = (times >= begin[0]) & ~tested
    chosen = {"train": ~(tested | validated), "val": validated, "test": tested}
    return {split: (users[mask], items[mask]) for split, mask in chosen.items()}


def split_and_note(path, users, items, options, notes, times=None):
    """The split that the options ask for ("auto" means "random"), with a line in `notes` that says so and one for
    duplicate pairs. times: [n], needed for "time" and "last"; InputError without."""
    share, last = options.split_share, options.split_last
    if options.split in ("time", "last"):
        if times is None:
            raise InputError(f"{path}: has no column timestamp, which --split {options.split} needs; add it")
        if options.split == "last":
            splits = split_latest(users, items, times, last, options.seed)
            notes.append(
                f"split by time: each user's latest {last} for testing, the {last} before for validation; users with "
                f"fewer than {2 * last + 1} interactions keep them in training"
            )
        else:
            splits = split_by_time(users, items, times, share)
            part = f"{100 * share:.3g}%"
            notes.append(f"split by time: the latest {part} of all rows for testing, the {part} before for validation")
    else:
        splits = split_per_user(users, items, options.seed, share)
        parts = "8:1:1" if share == 0.1 else f"with shares of {share:.3g} for validation and testing"
        notes.append(
            f"split {parts} per user with seed {options.seed}; users with fewer than 3 interactions keep them in "
            "training"
        )
    duplicates = len(users) - sum(len(side[0]) for side in splits.values())
    if duplicates:
        notes.append(f"interactions: {duplicates} duplicate {'pair' if duplicates == 1 else 'pairs'} merged")
    return splits


def _placed(users, items, seed, times=None):
    """(users, items, place, degree) of the distinct pairs: a pair's place among its user's, in the order of a hash of
    the seed, or with times (of distinct pairs) from the latest on; and the user's number of pairs."""
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    hashed = _hash(users, items, seed)
    order = np.lexsort((items, hashed, users) if times is None else (items, hashed, -times, users))
    users, items = users[order], items[order]
    new = np.ones(len(users), bool)  # equal pairs have equal hashes and stand beside each other
    new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    users, items = users[new], items[new]
    begin = np.flatnonzero(np.diff(users, prepend=-1))
    degree = np.diff(begin, append=len(users))
    place = np.arange(len(users)) - np.repeat(begin, degree)
    return users, items, place, np.repeat(degree, degree)


def _cut(users, items, place, held):
    splits = {"test": place < held, "val": (place >= held) & (place < 2 * held), "train": place >= 2 * held}
    return {split: (users[chosen], items[chosen]) for split, chosen in splits.items()}


def _earliest(users, items, times):
    """The distinct pairs, each with its earliest time."""
    users, items, times = np.asarray(users, np.int64), np.asarray(items, np.int64), np.asarray(times)
    order = np.lexsort((times, items, users))
    users, items, times = users[order], items[order], times[order]
    new = np.ones(len(users), bool)
    new[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return users[new], items[new], times[new]


def _hash(users, items, seed):
    """splitmix64 of (seed, user, item), uint64 [n]."""
    seed = np.full(1, int(seed) % 2**64, np.uint64)
    return _mix(_mix(_mix(seed) + users.astype(np.uint64)) + items.astype(np.uint64))


def _mix(z):
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
