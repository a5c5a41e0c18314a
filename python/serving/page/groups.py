"""The groups of the items by a column of their table, which the page shows as colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.cells import BAR

MOST = 8  # groups besides the others: more colours cannot be told apart
RANGES = 6  # of a column of numbers
OTHERS, NONE = "others", "no value"


@dataclass(frozen=True)
class Groups:
    """of: int64 [I], the group of each item. names: of the groups. ordered: whether they are ranges of numbers. rest:
    whether the last group is that of all other values and of the items without one."""

    of: np.ndarray
    names: list[str]
    ordered: bool
    rest: bool

    def described(self) -> list[dict[str, str | int | bool]]:
        """Name and number of items of each group, and whether it is that of the remaining items."""
        sizes = np.bincount(self.of, minlength=len(self.names)).tolist()
        last = len(self.names) - 1 if self.rest else -1
        return [
            {"name": name, "size": size, "rest": n == last}
            for n, (name, size) in enumerate(zip(self.names, sizes, strict=True))
        ]


def grouped(cells: Sequence[str]) -> Groups:
    """Groups by the first value of every cell: the most frequent values, or ranges of a column of many numbers."""
    firsts = [cell.split(BAR)[0].strip() for cell in cells]
    present = [value for value in firsts if value]
    numbers = _numbers(firsts)
    if numbers is not None and len(set(present)) > MOST:
        return _ranges(numbers)
    names = [value for value, _ in sorted(Counter(present).items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]]
    place = {value: n for n, value in enumerate(names)}
    of = np.array([place.get(value, len(names)) for value in firsts], np.int64)
    rest = bool((of == len(names)).any())
    if rest:
        names.append(OTHERS if len(set(present)) > MOST else NONE)
    return Groups(of, names, False, rest)


def _numbers(values: Sequence[str]) -> np.ndarray | None:
    """float64 [n], NaN for an empty cell; None if there are cells that are not numbers."""
    try:
        numbers = np.array([float(value or "nan") for value in values])
    except ValueError:
        return None
    return None if np.isinf(numbers).any() or np.isnan(numbers).all() else numbers


def _ranges(numbers: np.ndarray) -> Groups:
    """About equally many items in every range."""
    there = ~np.isnan(numbers)
    edges = np.unique(np.quantile(numbers[there], np.linspace(0, 1, RANGES + 1)[1:-1], method="higher"))
    of = np.where(there, np.searchsorted(edges, numbers, side="right"), -1)
    kept = np.unique(of[there])
    names = []
    for group in kept.tolist():
        own = numbers[of == group]
        low, high = (f"{bound:.6g}" for bound in (own.min(), own.max()))
        names.append(low if low == high else f"{low} to {high}")
    of = np.where(there, np.searchsorted(kept, of), len(names))
    rest = not there.all()
    if rest:
        names.append(NONE)
    return Groups(of, names, True, rest)
