"""Columns of a table of any types as text, such as titles and genres of items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .arrow import pyarrow
from .files import check_named, existing_file
from .tables import column_names, first_line, likely_separator, quote_of

BAR = "|"  # between several values in one cell


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """These columns of a table as text; an empty cell is "", and the values of a list are separated by bars.

    path: Parquet, or text with a header line, compressed or not. Raises InputError for a column that the table does not
    have, or has twice, and for a table that cannot be read.
    """
    pa = pyarrow()
    from pyarrow import csv, parquet

    check_named(path)
    existing_file(path)
    present = column_names(path)
    for name in names:
        if present.count(name) != 1:
            what = f"has {present.count(name)} columns named {name}" if name in present else f"has no column {name}"
            raise InputError(f"{path}: {what}; its columns are {', '.join(present)[:160]}")
    try:
        if path.suffix == ".parquet":
            table = parquet.read_table(path, columns=list(names))
        else:
            separator = likely_separator(first_line(path))  # as column_names
            quote = quote_of(separator)
            # All columns as text: otherwise 007 would become 7.
            parsing = csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote))
            types = dict.fromkeys(names, pa.string())
            table = csv.read_csv(
                path,
                parse_options=parsing,
                convert_options=csv.ConvertOptions(column_types=types, include_columns=list(names)),
            )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: is not a readable table ({shown(str(error), 160)}); write it again") from None
    return {name: [_text(cell) for cell in table.column(name).to_pylist()] for name in names}


def _text(cell: Any) -> str:
    if isinstance(cell, list):
        return BAR.join(map(_text, cell))
    return "" if cell is None else str(cell)
