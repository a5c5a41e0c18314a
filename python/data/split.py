"""Splits into training, validation and test set: random per user, by time, or the most recent of each user."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from .dataset import Splits
from .options import LoadOptions, parsed_dates

# {unit of a Unix time: how many there are in a second}
_UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


def split_per_user(users: np.ndarray, items: np.ndarray, seed: int = 0, share: float = 0.1) -> Splits:
    """{split: (users, items)}, random for each user. users, items: int64 [n] indices; duplicate pairs count once.

    Of the n items of a user, max(1, floor(share n)) are for validation and as many for testing. Users with one or two
    items keep them in the training set. A 64-bit hash of the seed and the two indices orders the items of a user, so
    that the split does not depend on the order of the file, the platform or the version of NumPy.
    """
    users, items, rank, degree = _ranked(users, items, seed)
    n_held_out = np.where(degree >= 3, np.maximum(1, np.floor(degree * share + 1e-9)), 0)
    n_held_out = np.minimum(n_held_out, (degree - 1) // 2)
    return _by_rank(users, items, rank, n_held_out)


def split_latest(users: np.ndarray, items: np.ndarray, times: np.ndarray, count: int = 1, seed: int = 0) -> Splits:
    """{split: (users, items)}: the most recent `count` items of each user for testing, the `count` before for
    validation.

    Users with fewer than 2 count + 1 items keep them in the training set. The first occurrence of a repeated pair
    counts. Items with the same time are ordered by the hash of split_per_user.
    """
    users, items, times = earliest(users, items, times)
    users, items, rank, degree = _ranked(users, items, seed, times)
    return _by_rank(users, items, rank, np.where(degree > 2 * count, count, 0))


def split_by_time(users: np.ndarray, items: np.ndarray, times: np.ndarray, share: float = 0.1) -> Splits:
    """{split: (users, items)}: the most recent fraction `share` of all pairs for testing, the `share` before for
    validation. Pairs with the same time stay together, in the later set. The first occurrence of a repeated pair
    counts."""
    users, items, times = earliest(users, items, times)
    ordered = np.sort(times)
    return split_at(users, items, times, *(ordered[at] if len(ordered) else 0 for at in time_ranks(len(times), share)))


def dated_bounds(options: LoadOptions, largest: float) -> tuple[float, float]:
    """(time from which on pairs are for validation, for testing) of options.split_dates, in the unit of the timestamps.

    largest: of the timestamps, from which their unit is recognised: seconds, milliseconds, microseconds or nanoseconds
    since 1970. Raises InputError for dates if they are none of these.
    """
    first, second = parsed_dates(options.split_dates)
    if not isinstance(first, datetime) or not isinstance(second, datetime):
        return first, second  # type: ignore[return-value]
    units = [scale for scale in reversed(_UNITS.values()) if largest >= 1e8 * scale]
    if not units:
        raise InputError(
            f"split_dates = {shown(options.split_dates)}: the timestamps are at most {largest:g} and so no Unix times; "
            "give numbers instead of dates"
        )
    return first.timestamp() * units[0], second.timestamp() * units[0]


def refuse_mixed_units(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Raise InputError if some times are Unix times of one unit and some of another, which no split by time can order.

    parts: arrays of times, together those of all rows. A unit is recognised from 1989 to 2065; smaller and larger
    numbers, such as 0 for a missing time, are of no unit.
    """
    found: dict[str, float] = {}
    for times in parts:
        for unit, scale in _UNITS.items():
            of_unit = (times >= 6e8 * scale) & (times <= 3e9 * scale)
            if unit not in found and of_unit.any():
                found[unit] = float(times[np.argmax(of_unit)])
    if len(found) > 1:
        one, other = (f"{value:.0f} ({unit})" for unit, value in list(found.items())[:2])
        raise InputError(f"{path}: has Unix times in different units, {one} and {other}; convert them to one")


def time_ranks(count: int, share: float) -> list[int]:
    """(rank of the first validation pair, of the first test pair) among `count` pairs in the order of time, from 0."""
    starts = [int(count - np.floor(part * share * count + 1e-9)) for part in (2, 1)]
    return [min(start, count - 1) for start in starts]


def split_at(users: np.ndarray, items: np.ndarray, times: np.ndarray, val_time: float, test_time: float) -> Splits:
    """{split: (users, items)}: pairs from test_time on for testing, those from val_time on for validation."""
    is_test = times >= test_time
    is_val = (times >= val_time) & ~is_test
    masks = {"train": ~(is_test | is_val), "val": is_val, "test": is_test}
    return {split: (users[mask], items[mask]) for split, mask in masks.items()}


def split_and_note(
    path: Path,
    users: np.ndarray,
    items: np.ndarray,
    options: LoadOptions,
    notes: list[str],
    times: np.ndarray | None = None,
) -> Splits:
    """The split that the options choose ("auto" means "random"). Appends notes about the split and duplicate pairs.

    times: [n]; without it, InputError for "time" and "last".
    """
    share, last = options.split_share, options.split_last
    if options.split in ("time", "last"):
        if times is None:
            raise InputError(f"{path}: has no column timestamp, which --split {options.split} needs; add it")
        refuse_mixed_units(path, [times])
        if options.split == "last":
            splits = split_latest(users, items, times, last, options.seed)
        elif options.split_dates:
            bounds = dated_bounds(options, float(times.max(initial=0)))
            splits = split_at(*earliest(users, items, times), *bounds)
        else:
            splits = split_by_time(users, items, times, share)
    else:
        splits = split_per_user(users, items, options.seed, share)
    note_split(options, len(users) - sum(len(side[0]) for side in splits.values()), notes)
    return splits


def note_split(options: LoadOptions, duplicates: int, notes: list[str]) -> None:
    """Append notes about the split and the number of rows that repeat a pair."""
    share, last = options.split_share, options.split_last
    if options.split in ("time", "last"):
        if options.split == "last":
            notes.append(
                f"split by time: the most recent {last} of each user for testing, the {last} before for validation; "
                f"users with fewer than {2 * last + 1} interactions keep them in the training set"
            )
        elif options.split_dates:
            begin = [shown(part.strip())[1:-1] for part in options.split_dates.split(",")]
            notes.append(f"split by time: from {begin[0]} on for validation, from {begin[1]} on for testing")
        else:
            part = f"{100 * share:.3g}%"
            notes.append(f"split by time: the most recent {part} for testing, the {part} before for validation")
    else:
        parts = "8:1:1" if share == 0.1 else f"with {100 * share:.3g}% for validation and for testing"
        notes.append(
            f"split {parts} at random per user, seed {options.seed}; users with fewer than 3 interactions keep them in "
            "the training set"
        )
    if duplicates:
        notes.append(f"interactions: {duplicates} duplicate {'pair' if duplicates == 1 else 'pairs'} merged")


def _ranked(
    users: np.ndarray, items: np.ndarray, seed: int, times: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(users, items, rank, degree) of the distinct pairs. rank: position of a pair among those of its user, from 0, in
    the order of the hash, or from the most recent one if times are given. degree: number of pairs of the user."""
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    hashed = _hash(users, items, seed)
    order = np.lexsort((items, hashed, users) if times is None else (items, hashed, -times, users))
    users, items = users[order], items[order]
    is_first = _is_first(users, items)  # equal pairs have equal hashes, so they are adjacent
    users, items = users[is_first], items[is_first]
    begin = np.flatnonzero(np.diff(users, prepend=-1))
    degree = np.diff(begin, append=len(users))
    rank = np.arange(len(users)) - np.repeat(begin, degree)
    return users, items, rank, np.repeat(degree, degree)


def _is_first(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """bool [n]: whether a pair differs from the one before it."""
    is_first = np.ones(len(users), bool)
    is_first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return is_first


def _by_rank(users: np.ndarray, items: np.ndarray, rank: np.ndarray, count: np.ndarray) -> Splits:
    """The first `count` [n] ranks of each user for testing, the next for validation, the rest for training."""
    masks = {"test": rank < count, "val": (rank >= count) & (rank < 2 * count), "train": rank >= 2 * count}
    return {split: (users[mask], items[mask]) for split, mask in masks.items()}


def earliest(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(users, items, times) of the distinct pairs, with the earliest time of each."""
    users, items, times = np.asarray(users, np.int64), np.asarray(items, np.int64), np.asarray(times)
    order = np.lexsort((times, items, users))
    users, items, times = users[order], items[order], times[order]
    is_first = _is_first(users, items)
    return users[is_first], items[is_first], times[is_first]


def _hash(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 of (seed, user, item), uint64 [n]."""
    start = np.full(1, int(seed) % 2**64, np.uint64)
    return _mix(_mix(_mix(start) + users.astype(np.uint64)) + items.astype(np.uint64))


def _mix(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
