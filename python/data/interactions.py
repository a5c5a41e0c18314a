"""Interaction tables: the rating, timestamp and split columns. Used by the plain and the MMRec layout."""

import numpy as np

from ..errors import InputError, shown
from .dataset import SPLITS
from .split import split_and_note
from .tables import read_table

RATING, TIMESTAMP = "rating", "timestamp"


def read_interactions(path, user, item, split, options, notes, separator=None):
    """Read an interaction table. user, item, split: names of its columns.

    The split column is read if it exists and options.split is "auto"; rating and timestamp are read if the options need
    them. Rows with a low rating are removed. Appends a note about columns that are not read. Raises InputError if the
    table is invalid, or lacks a column that an option needs.
    """
    numbers = needed_numbers(options)
    splits = [split] if options.split == "auto" else []
    required = splits if options.split_column != "split" else []
    table = read_table(path, [user, item, *required], splits, separator, numbers)
    for name in numbers:
        if name not in table.numbers:
            refuse_missing_numbers(path, name, options)
    if table.unread:
        notes.append(unread_interactions(path, table.unread))
    if options.min_rating is not None:
        is_high = table.numbers[RATING] >= options.min_rating
        note_low_ratings(path, len(is_high) - is_high.sum(), len(is_high), options, notes)
        table = table.where(is_high)
    return table


def refuse_label(path, row, column, text, labels):
    """Raise InputError for a text in the split column that is not among {text: split}."""
    expected = ", ".join(f"{label} ({split})" if label != split else label for label, split in labels.items())
    raise InputError(f"{path}: row {row} has the {column} {shown(text)}; it must be one of {expected}")


def needed_numbers(options):
    """The columns of numbers that the options need."""
    needed = {RATING: options.min_rating is not None, TIMESTAMP: options.split in ("time", "last")}
    return [name for name, is_needed in needed.items() if is_needed]


def refuse_missing_numbers(path, name, options):
    """Raise InputError, because a table lacks a column that an option needs."""
    option = f"--min-rating {options.min_rating:g}" if name == RATING else f"--split {options.split}"
    raise InputError(f"{path}: has no column {name}, which {option} needs; add the column or drop the option")


def note_low_ratings(path, n_low, rows, options, notes):
    """Append a note about the rows that were removed for their rating."""
    notes.append(f"{path.name}: {n_low} of {rows} rows have a rating below {options.min_rating:g}, ignored")


def splits_of(path, table, column, labels, users, items, options, notes):
    """{split: (users, items)} from the split column, if it was read, or else from the options.

    labels: {text in the column: split}. users, items: index of each row.
    """
    if column not in table:
        return split_and_note(path, users, items, options, notes, table.numbers.get(TIMESTAMP))
    for code, text in enumerate(table[column].texts):
        if text not in labels:
            refuse_label(path, table[column].row_of(code), column, text, labels)
    splits = np.array([SPLITS.index(labels[text]) for text in table[column].texts], np.int64)[table[column].codes]
    return {split: (users[splits == number], items[splits == number]) for number, split in enumerate(SPLITS)}


def unread_interactions(path, names):
    """The note about columns of an interaction table that are not read."""
    hints = []
    if RATING in names:
        hints.append("every row counts as an interaction; --min-rating 4 keeps only ratings of 4 or higher")
    if TIMESTAMP in names:
        hints.append("--split time splits by timestamp")
    return "; ".join([unread(path, names), *hints])


def unread(path, names):
    """The note about columns of a table that are not read."""
    listed = ", ".join(shown(name)[1:-1] for name in names[:12]) + (", …" if len(names) > 12 else "")
    return f"{path.name}: {f'column {listed} is' if len(names) == 1 else f'columns {listed} are'} not read"
