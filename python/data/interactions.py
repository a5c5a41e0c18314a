"""What the layouts with a table of interactions share: its rating, its time and its split."""

import numpy as np

from ..errors import InputError, shown
from .dataset import SPLITS
from .split import split_and_note
from .tables import read_table

RATING, TIMESTAMP = "rating", "timestamp"


def read_interactions(path, user, item, split, options, notes, separator=None):
    """The Table of a file's columns `user` and `item`, of `split` where it is there and asked for, and of rating and
    timestamp where the options need them; rows of too low a rating left out.

    Notes the columns that are not read. Raises InputError as read_table, and where a column that an option names is
    missing.
    """
    wanted = {RATING: options.min_rating is not None, TIMESTAMP: options.split in ("time", "last")}
    numbers = [name for name, asked in wanted.items() if asked]
    splits = [split] if options.split == "auto" else []
    named = splits if options.split_column != "split" else []
    table = read_table(path, [user, item, *named], splits, separator, numbers)
    for name in numbers:
        if name not in table.numbers:
            how = f"--min-rating {options.min_rating:g}" if name == RATING else f"--split {options.split}"
            raise InputError(f"{path}: has no column {name}, which {how} needs; add it, or leave the option out")
    if table.unread:
        notes.append(_unread(path, table.unread))
    if options.min_rating is not None:
        kept = table.numbers[RATING] >= options.min_rating
        notes.append(
            f"{path.name}: {len(kept) - kept.sum()} of {len(kept)} rows have a rating below {options.min_rating:g} and "
            "are left out"
        )
        table = table.where(kept)
    return table


def splits_of(path, table, column, labels, users, items, options, notes):
    """{split: (users, items)} as the table's split column says ({text: split} in `labels`), or as the options ask."""
    if column not in table:
        return split_and_note(path, users, items, options, notes, table.numbers.get(TIMESTAMP))
    for code, text in enumerate(table[column].texts):
        if text not in labels:
            expected = ", ".join(f"{label} ({split})" if label != split else label for label, split in labels.items())
            raise InputError(
                f"{path}: row {table[column].row_of(code)} has {column} {shown(text)}; it must be one of {expected}"
            )
    splits = np.array([SPLITS.index(labels[text]) for text in table[column].texts], np.int64)[table[column].codes]
    return {split: (users[splits == at], items[splits == at]) for at, split in enumerate(SPLITS)}


def _unread(path, names):
    hints = []
    if RATING in names:
        hints.append("every row counts, whatever its rating; --min-rating 4 keeps those from 4 on")
    if TIMESTAMP in names:
        hints.append("--split time splits by timestamp")
    return "; ".join([unread(path, names), *hints])


def unread(path, names):
    """The note that says which of a table's columns are not read."""
    listed = ", ".join(shown(name)[1:-1] for name in names[:12]) + (", …" if len(names) > 12 else "")
    return f"{path.name}: {f'column {listed} is' if len(names) == 1 else f'columns {listed} are'} not read"
