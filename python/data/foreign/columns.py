"""Reading tables with common column names, and combining several tables into one Source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import InputError, shown
from ..arrow import Column
from ..layouts import mmrec, plain
from ..names import legible, standard_names
from ..tables import column_names, read_table
from .source import Columns, Source

LABELS = plain.LABELS | mmrec.LABELS


def known_columns(path: Path, user: str | None = None, item: str | None = None) -> dict[str, str]:
    """{user, item, rating, timestamp, split: column with this meaning}. user, item: column names given by the user.

    Raises InputError if no column is known to contain users or items.
    """
    names = column_names(path)
    columns = standard_names(names) | {name: column for name, column in (("user", user), ("item", item)) if column}
    for name in ("user", "item"):
        if columns.get(name) not in names:
            listed = shown(", ".join(map(legible, names)), 120)
            raise InputError(
                f"{path}: the column of the {name}s was not recognised among {listed}; give its name with --{name}"
            )
    return columns


def read_columns(path: Path, user: str | None = None, item: str | None = None) -> Columns:
    """Read a table: (users, items, {rating, timestamp: [n]}, split or None, names of unread columns)."""
    columns = known_columns(path, user, item)
    numbers: dict[str, str] = {name: columns[name] for name in ("rating", "timestamp") if name in columns}
    separator = "\t" if path.name.endswith((".inter", ".item")) else None
    splits = [columns["split"]] if "split" in columns else []
    table = read_table(path, [columns["user"], columns["item"]], splits, separator, list(numbers.values()))
    values = {name: table.numbers[column] for name, column in numbers.items()}
    split = _split(path, columns["split"], table[columns["split"]]) if splits else None
    return table[columns["user"]], table[columns["item"]], values, split, table.unread


def _split(path: Path, name: str, column: Column) -> Column:
    """The column with its texts replaced by train, val and test."""
    for code, text in enumerate(column.texts):
        if text not in LABELS:
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}; must be train, val or test"
            )
    return Column.of([LABELS[text] for text in column.texts]).rows(column.codes)


def joined(parts: Sequence[tuple[str | None, Columns]]) -> Source:
    """One Source from several tables: [(split or None, result of read_columns)]."""
    users = Column.concatenated([part[0] for _, part in parts])
    items = Column.concatenated([part[1] for _, part in parts])
    common = set.intersection(*(set(part[2]) for _, part in parts))
    numbers = {name: np.concatenate([part[2][name] for _, part in parts]) for name in sorted(common)}
    labels = [Column([split], np.zeros(len(part[0].codes), np.int64)) if split else part[3] for split, part in parts]
    known = [column for column in labels if column is not None]
    splits = Column.concatenated(known) if len(known) == len(parts) else None
    unread = list(dict.fromkeys(name for _, part in parts for name in part[4]))
    notes = [f"columns not converted: {', '.join(unread[:12])}"] if unread else []
    return Source(users, items, splits, numbers, notes=notes)
