"""Interaction tables: the rating, timestamp and split columns. Used by the plain and the MMRec layout."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from ..errors import InputError, shown
from .arrow import Column
from .core import k_core
from .dataset import SPLITS, Splits, Weights
from .names import legible
from .options import LoadOptions
from .split import split_and_note
from .sql import database_kind, refuse_without_query
from .tables import Table, read_table


def read_interactions(
    path: Path, user: str, item: str, split: str, options: LoadOptions, notes: list[str], separator: str | None = None
) -> Table:
    """Read an interaction table. user, item, split: names of its columns.

    The split column is read if it exists and options.split is "auto"; rating, timestamp and weight are read if the
    options need them. Rows with a low rating are removed, and then those outside the k-core of
    options.min_interactions. Appends notes about both, and about columns that are not read. Raises InputError if the
    table is invalid, or lacks a column that an option needs.
    """
    if database_kind(path) and not options.query:
        refuse_without_query(path)
    if options.sep and (options.query or path.suffix == ".parquet"):
        raise InputError(f"{path}: sep = {shown(options.sep)} is for text tables; leave it out")
    numbers = needed_numbers(options)
    splits = [split] if options.split == "auto" else []
    required = splits if options.split_column != "split" else []
    table = read_table(
        path,
        [user, item, *required],
        splits,
        options.sep or separator,
        numbers,
        query=options.query,
        untimed=quantities(options),
        options=naming_options(user, item, split),
    )
    for name in numbers:
        if name not in table.numbers:
            refuse_missing_numbers(path, name, options)
    if table.unread:
        notes.append(unread_interactions(path, table.unread, options))
    is_high = np.ones(table.rows, bool)
    if options.min_rating is not None:
        is_high = table.numbers[options.rating_column] >= options.min_rating
    if options.weight_column:
        _refuse_weights(path, table.numbers[options.weight_column], is_high, options.weight_column)
    if options.min_rating is not None:
        note_low_ratings(path, len(is_high) - is_high.sum(), len(is_high), options, notes)
        table = table.where(is_high)
    if options.min_interactions > 1:
        if split in table:
            raise InputError(
                f"{path}: min_interactions = {options.min_interactions} would change the split that the data comes "
                f"with (column {split}); give --split random, time or last, or leave it out"
            )
        table = _core(path, table, table[user], table[item], options.min_interactions, notes)
    return table


def _refuse_weights(path: Path, weights: np.ndarray, counts: np.ndarray, column: str) -> None:
    """Raise InputError for the first row that counts, bool [n], without a positive weight."""
    bad = np.flatnonzero(counts & ~(weights > 0))
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} has the {column} {weights[bad[0]]:g}; a weight must be positive, so remove the "
            "row, or leave out --weight-column"
        )


def _core(path: Path, table: Table, users: Column, items: Column, k: int, notes: list[str]) -> Table:
    """The rows of the k-core, with a note. Raises InputError if nothing is left."""
    in_core = k_core(users.codes, items.codes, k)
    counts = [(len(side.texts), len(np.unique(side.codes[in_core]))) for side in (users, items)]
    if not in_core.any():
        raise InputError(
            f"{path}: min_interactions = {k} leaves nothing of {counts[0][0]} users and {counts[1][0]} items; lower it"
        )
    removed = [
        f"{before - after} of {before} {name}" for (before, after), name in zip(counts, ("users", "items"), strict=True)
    ]
    notes.append(
        f"{path.name}: {' and '.join(removed)} with fewer than {k} interactions removed, repeatedly, and so "
        f"{len(in_core) - in_core.sum()} of {len(in_core)} rows"
    )
    return table.where(in_core)


def refuse_label(path: Path, row: int, column: str, text: str, labels: dict[str, str]) -> NoReturn:
    """Raise InputError for a text in the split column that is not among {text: split}."""
    expected = ", ".join(f"{label} ({split})" if label != split else label for label, split in labels.items())
    raise InputError(f"{path}: row {row} has the {column} {shown(text)}; it must be one of {expected}")


def note_catalogue(removed: int, count: int, notes: list[str]) -> None:
    """Append a note about the items of lists and feature files that min_interactions removes."""
    if removed:
        notes.append(f"catalogue: {removed} of {count} items removed, they have too few interactions")


def naming_options(user: str, item: str, split: str) -> dict[str, str]:
    """{column: the option of the command line that names it}."""
    return {user: "--user-column", item: "--item-column", split: "--split-column"}


def needed_numbers(options: LoadOptions) -> list[str]:
    """The columns of numbers that the options need."""
    times = [options.time_column] if options.split in ("time", "last") else []
    return list(dict.fromkeys(quantities(options) + times))


def quantities(options: LoadOptions) -> list[str]:
    """Those of the needed columns of numbers in which a time has no meaning: ratings and weights."""
    needed = [options.rating_column] if options.min_rating is not None else []
    return needed + ([options.weight_column] if options.weight_column else [])


def refuse_missing_numbers(path: Path, name: str, options: LoadOptions) -> NoReturn:
    """Raise InputError, because a table lacks a column that an option needs."""
    if name == options.weight_column:
        raise InputError(f"{path}: has no column {name}; name the one with the weights, or leave out --weight-column")
    is_rating = name == options.rating_column and options.min_rating is not None
    option, column = (
        (f"--min-rating {options.min_rating:g}", "rating") if is_rating else (f"--split {options.split}", "time")
    )
    raise InputError(
        f"{path}: has no column {name}, which {option} needs; name it with --{column}-column, or drop the option"
    )


def note_low_ratings(path: Path, n_low: int, rows: int, options: LoadOptions, notes: list[str]) -> None:
    """Append a note about the rows that were removed for their rating."""
    notes.append(f"{path.name}: {n_low} of {rows} rows have a rating below {options.min_rating:g}, ignored")


def splits_of(
    path: Path,
    table: Table,
    column: str,
    labels: dict[str, str],
    users: np.ndarray,
    items: np.ndarray,
    options: LoadOptions,
    notes: list[str],
) -> Splits:
    """{split: (users, items)} from the split column, if it was read, or else from the options.

    labels: {text in the column: split}. users, items: index of each row.
    """
    if column not in table:
        return split_and_note(path, users, items, options, notes, table.numbers.get(options.time_column))
    for code, text in enumerate(table[column].texts):
        if text not in labels:
            refuse_label(path, table[column].row_of(code), column, text, labels)
    splits = np.array([SPLITS.index(labels[text]) for text in table[column].texts], np.int64)[table[column].codes]
    return {split: (users[splits == number], items[splits == number]) for number, split in enumerate(SPLITS)}


def weights_of(
    table: Table, column: str, labels: dict[str, str], users: np.ndarray, items: np.ndarray, options: LoadOptions
) -> Weights | None:
    """(users, items, weights) of the rows that may be training interactions, None without weights. The arguments are
    those of `splits_of`."""
    if not options.weight_column:
        return None
    weights = table.numbers[options.weight_column].astype(np.float64)
    if column not in table:
        return users, items, weights
    in_training = np.array([labels[text] == "train" for text in table[column].texts], bool)[table[column].codes]
    return users[in_training], items[in_training], weights[in_training]


def unread_interactions(path: Path, names: list[str], options: LoadOptions) -> str:
    """The note about columns of an interaction table that are not read."""
    hints = []
    if options.rating_column in names:
        weights = "" if options.weight_column else f", --weight-column {options.rating_column} weights the rows by them"
        hints.append(f"every row counts as an interaction; --min-rating 4 keeps only ratings of 4 or higher{weights}")
    if options.time_column in names:
        hints.append("--split time splits by timestamp")
    return "; ".join([unread(path, names), *hints])


def unread(path: Path, names: list[str]) -> str:
    """The note about columns of a table that are not read."""
    listed = ", ".join(shown(legible(name))[1:-1] for name in names[:12]) + (", …" if len(names) > 12 else "")
    return f"{path.name}: {f'column {listed} is' if len(names) == 1 else f'columns {listed} are'} not read"
