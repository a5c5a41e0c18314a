"""The table of items beside the interactions: movies.csv of MovieLens, <name>.item of RecBole, and others like them."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import InputError, shown
from ..arrow import Column, check_ids, is_vector
from ..cells import read_columns
from ..files import TABLE_ENDS
from ..names import standard_names
from ..tables import column_names
from .source import Source

# Tables beside the interactions. Of these, the ones whose names begin with _ITEMS may be the table of items.
OTHERS = re.compile(r"(movies|links|tags|genome.*|books.*|users?|items?|meta.*|README.*|.*_feat)\.")
_ITEMS = re.compile(r"(movies|books.*|items?|meta.*)\.|.*\.item$")
_TYPE = re.compile(r":(token|float|token_seq|float_seq)$")  # of RecBole
_ENDS = (*TABLE_ENDS, ".item", ".dat", ".json", ".jsonl", ".json.gz", ".jsonl.gz")


def add_items(source: Source, folder: Path) -> None:
    """Add the table of items of the folder, if it has one, to a source without a list of items, and note the tables
    that are not converted.

    All items of the table become items of the data, in its order; those of the interactions only follow.
    """
    names = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(_ENDS)]
    left = [path for path in names if (OTHERS.match(path.name) or path.suffix == ".item") and "_feat." not in path.name]
    tables = [path for path in left if _ITEMS.match(path.name)]
    if len(tables) == 1:
        left.remove(tables[0])
        try:
            _add(source, tables[0])
        except InputError as error:
            source.notes.append(f"{tables[0].name} is not converted: {str(error).removeprefix(f'{tables[0]}: ')}")
    if left:
        source.notes.append(f"not converted: {shown(', '.join(path.name for path in left), 120)[1:-1]}")


def _add(source: Source, path: Path) -> None:
    """Raises InputError if the table cannot be used."""
    names = column_names(path)
    item = standard_names(names).get("item")
    if item is None or names.count(item) > 1:
        raise InputError(
            f"{path}: has no column of item ids; for titles, write a table with the columns item and title"
        )
    if any(copied.suffix == ".npy" for copied in source.copied):
        raise InputError(
            f"{path}: .npy features have an order of their own; name its column {item} item to use --items"
        )
    short = {name: _TYPE.sub("", name).strip() for name in names if name not in (item, *_vectors(path, names))}
    short = {name: new for name, new in short.items() if new not in ("", "item") and names.count(name) == 1}
    texts = read_columns(path, [item, *short])
    column = check_ids(path, item, Column.of(texts[item]))
    first = dict(zip(reversed(texts[item]), range(len(texts[item]) - 1, -1, -1), strict=True))  # {id: row}
    rows, used = sorted(first.values()), set(source.items.texts)
    if not used & first.keys():
        raise InputError(f"{path}: none of its items has an interaction")
    more = [text for text in source.items.texts if text not in first]
    source.item_ids = [texts[item][row] for row in rows] + more
    for name, new in short.items():
        cells = [texts[name][row].strip() or None for row in rows]
        if any(cells):
            source.item_columns[new] = cells + [None] * len(more)
    what = shown(", ".join(source.item_columns) or "ids only", 120)[1:-1]
    counts = {
        "without interactions": len(first.keys() - used),
        "rows of an item that had one left out": len(column.codes) - len(rows),
        "items of the interactions are not in it": len(more),
    }
    more_to_say = [f"{count:,} {text}" for text, count in counts.items() if count]
    source.notes.append("; ".join([f"{path.name}: {len(rows):,} items with {what}", *more_to_say]))


def _vectors(path: Path, names: list[str]) -> list[str]:
    """The columns of features."""
    if path.suffix != ".parquet":
        return [name for name in names if name.endswith(":float_seq")]
    from pyarrow import parquet

    return [field.name for field in parquet.read_schema(path) if is_vector(field)]
