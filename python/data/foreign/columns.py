"""Tables whose columns are known by their names, and several of them as one Source."""

import numpy as np

from ...errors import InputError, shown
from ..layouts import mmrec, plain
from ..names import standard_names
from ..tables import Column, column_names, read_table
from .source import Source

LABELS = plain.LABELS | mmrec.LABELS


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
    return known


def read_columns(path, user=None, item=None):
    """(users, items, {rating, timestamp: [n]}, split or None, unread) of a table; see known_columns."""
    known = known_columns(path, user, item)
    numbers = {name: known[name] for name in ("rating", "timestamp") if name in known}
    separator = "\t" if path.name.endswith((".inter", ".item")) else None
    splits = [known["split"]] if "split" in known else []
    table = read_table(path, [known["user"], known["item"]], splits, separator, list(numbers.values()))
    found = {name: table.numbers[column] for name, column in numbers.items()}
    split = _split(path, known["split"], table[known["split"]]) if splits else None
    return table[known["user"]], table[known["item"]], found, split, table.unread


def _split(path, name, column):
    """The column with train, val and test for whatever its source calls them."""
    for code, text in enumerate(column.texts):
        if text not in LABELS:
            raise InputError(f"{path}: row {column.row_of(code)} has {name} {shown(text)}; it is train, val or test")
    return merged([Column([LABELS[text] for text in column.texts], column.codes)])


def joined(parts):
    """One Source of [(split or None, (users, items, numbers, split column or None, unread))]."""
    users, items = (merged([part[at] for _, part in parts]) for at in (0, 1))
    common = set.intersection(*(set(part[2]) for _, part in parts))
    numbers = {name: np.concatenate([part[2][name] for _, part in parts]) for name in sorted(common)}
    splits = merged([part[3] for _, part in parts]) if all(part[3] is not None for _, part in parts) else None
    if parts[0][0] is not None:
        names = [split for split, _ in parts]
        rows = [len(part[0].codes) for _, part in parts]
        splits = merged([Column([name], np.zeros(count, np.int64)) for name, count in zip(names, rows, strict=True)])
    unread = list(dict.fromkeys(name for _, part in parts for name in part[4]))
    notes = [f"not taken over: {', '.join(unread[:12])}"] if unread else []
    return Source(users, items, splits, numbers, notes=notes)


def merged(columns):
    """One Column of several, one after the other."""
    seen, codes = {}, []
    for column in columns:
        to = np.array([seen.setdefault(text, len(seen)) for text in column.texts], np.int64)
        codes.append(to[column.codes])
    return Column(list(seen), np.concatenate(codes))
