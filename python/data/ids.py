"""Ids as indices: what a file names, turned into 0..n-1 or refused with the row."""

import numpy as np

from ..errors import InputError, shown
from .files import TABLE_ENDS, read_text
from .tables import column_names, numbers_or_texts, read_table

_FREE_GAPS = 1_000_000


def check_gaps(path, what, count, indices):
    """Raises InputError where `count` (declared or largest id + 1) lies absurdly far above the distinct ids that occur.

    An id of 10^12 among ten would otherwise cost terabytes of empty rows. Up to a million plus a hundred an id pass.
    """
    if count <= _FREE_GAPS:
        return
    occurring = len(np.unique(indices))
    if count > _FREE_GAPS + 100 * occurring:
        raise InputError(
            f"{path}: names {shown(int(count))} {what} of which {occurring} occur; ids here count from 0, "
            "use the plain layout for other ids"
        )


def read_id_list(path, name):
    """The ids, texts in file order, of a table with a column `name`, or of a text file with one id a line."""
    if path.suffix == ".parquet" or (path.name.endswith(TABLE_ENDS) and name in column_names(path)):
        column = read_table(path, [name])[name]
        return [column.texts[code] for code in column.codes.tolist()]
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def indices_of(path, name, column):
    """int64 [n] of a column whose ids are themselves indices counted from 0; raises InputError with the row
    otherwise."""
    values = numbers_or_texts(column.texts)
    if values.dtype.kind == "i" and (not len(values) or values.min() >= 0):
        return values[column.codes]
    for code, text in enumerate(column.texts):
        if not (text.isascii() and text.isdigit() and numbers_or_texts([text]).dtype.kind == "i"):
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}; ids here are integers counted "
                "from 0, use the plain layout for other ids"
            )
    raise InputError(f"{path}: column {name} holds ids beyond 2^63; use the plain layout for other ids")


def sorted_ids(column, others=()):
    """(ids, index [n]): the distinct ids of a column and of `others`, texts too, in ascending order (numbers by value,
    texts by code point), and the place of each row of the column."""
    texts = list(dict.fromkeys([*column.texts, *others]))
    ids, back = np.unique(numbers_or_texts(texts), return_inverse=True)
    return ids, back.reshape(-1)[column.codes]


def note_counting_from_one(side, index, notes, features=False):
    """Notes where ids that are indices seem to count from 1: index 0 occurs nowhere and 1 does."""
    if index.min(initial=2) == 1:
        effect = "every item has the features of the item after it" if features else f"{side} 0 does not exist"
        notes.append(
            f"{side} 0 occurs in no interaction: if your {side} ids count from 1, {effect}; subtract 1 from the ids"
        )


def listed_ids(path, name, column):
    """(ids, {text: index}) of a list of ids in file order; raises InputError for one that occurs twice."""
    if len(column.texts) < len(column.codes):
        counts = np.bincount(column.codes)
        text = column.texts[int(counts.argmax())]
        row = int(np.flatnonzero(column.codes == counts.argmax())[1]) + 1
        raise InputError(f"{path}: row {row} names the {name} {shown(text)} again; list every {name} once")
    texts = [column.texts[code] for code in column.codes.tolist()]
    return numbers_or_texts(texts), {text: at for at, text in enumerate(texts)}


def places_in(path, name, column, places, list_path):
    """int64 [n]: the index of each row's id in a list; raises InputError with the row for an id that is not in it."""
    to = np.empty(len(column.texts), np.int64)
    for code, text in enumerate(column.texts):
        if text not in places:
            raise InputError(
                f"{path}: row {column.row_of(code)} has the {name} {shown(text)}, which {list_path.name} does not "
                "list; add it there"
            )
        to[code] = places[text]
    return to[column.codes]
