"""Tables whose columns are known by their names, and several of them as one Source."""

import numpy as np

from ...errors import InputError, shown
from ..names import standard_names
from ..tables import Column, column_names, read_table
from .source import Source


def known_columns(path, user=None, item=None):
    """{user, item, rating, timestamp: the table's column}; user, item: names that decide. Raises InputError where no
    column is known to hold users or items."""
    names = column_names(path)
    known = standard_names(names) | {name: given for name, given in (("user", user), ("item", item)) if given}
    for name in ("user", "item"):
        if known.get(name) not in names:
            raise InputError(
                f"{path}: no column is known to hold {name}s; its columns are {shown(', '.join(names), 120)}; name it "
                f"with --{name}"
            )
    return {name: column for name, column in known.items() if name != "split"}


def read_columns(path, user=None, item=None):
    """(users, items, {rating, timestamp: [n]}, unread) of a table; see known_columns."""
    known = known_columns(path, user, item)
    numbers = {name: known[name] for name in ("rating", "timestamp") if name in known}
    separator = "\t" if path.name.endswith((".inter", ".item")) else None
    table = read_table(path, [known["user"], known["item"]], (), separator, list(numbers.values()))
    found = {name: table.numbers[column] for name, column in numbers.items()}
    return table[known["user"]], table[known["item"]], found, table.unread


def joined(parts):
    """One Source of [(split or None, (users, items, numbers, unread))]."""
    users, items = (merged([part[at] for _, part in parts]) for at in (0, 1))
    common = set.intersection(*(set(part[2]) for _, part in parts))
    numbers = {name: np.concatenate([part[2][name] for _, part in parts]) for name in sorted(common)}
    splits = None
    if parts[0][0] is not None:
        names = [split for split, _ in parts]
        rows = [len(part[0].codes) for _, part in parts]
        splits = merged([Column([name], np.zeros(count, np.int64)) for name, count in zip(names, rows, strict=True)])
    unread = list(dict.fromkeys(name for _, part in parts for name in part[3]))
    notes = [f"not taken over: {', '.join(unread[:12])}"] if unread else []
    return Source(users, items, splits, numbers, notes=notes)


def merged(columns):
    """One Column of several, one after the other."""
    seen, codes = {}, []
    for column in columns:
        to = np.array([seen.setdefault(text, len(seen)) for text in column.texts], np.int64)
        codes.append(to[column.codes])
    return Column(list(seen), np.concatenate(codes))
