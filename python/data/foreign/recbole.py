"""The atomic files of RecBole: <name>.inter with a typed header, possibly as three splits, and <name>.item."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import InputError, shown
from ..arrow import Column
from ..names import standard_names
from ..tables import column_names, read_table
from .columns import joined, read_columns
from .items import add_items
from .source import Source

NAME = "recbole"
TITLE = "the layout of RecBole's atomic files"
_PARTS = {"train": "train", "val": "valid", "test": "test"}
_TYPED = re.compile(r".+:(token|float|token_seq|float_seq)")


def fits(folder: Path) -> bool:
    """Whether the folder contains a .inter file with the types of RecBole in its header."""
    return any(_TYPED.fullmatch(column_names(path)[0]) for path in sorted(folder.glob("*.inter"))[:1] if path.is_file())


def read(folder: Path) -> Source:
    """Read the folder as a Source: ids, rating, timestamp, the split if it has separate files, and every float_seq
    column of the .item file as a modality."""
    paths = sorted(folder.glob("*.inter"))
    by_split = {
        split: [path for path in paths if path.name.endswith(f".{part}.inter")] for split, part in _PARTS.items()
    }
    parts: list[tuple[str | None, Path]] = [
        (split, path) for split, split_paths in by_split.items() for path in split_paths
    ]
    if not parts:
        parts = [(None, path) for path in paths]
    if (len(parts) > 1 and len({split for split, _ in parts}) < len(parts)) or (len(parts) != len(paths)):
        listed = ", ".join(path.name for path in paths[:6])
        raise InputError(
            f"{folder}: has the tables {shown(listed, 120)}; keep one table, or one set of .train, .valid and .test"
        )
    source = joined([(split, read_columns(path)) for split, path in parts])
    items = sorted(folder.glob("*.item"))
    if len(items) == 1:
        source.features = _vectors(items[0])
    add_items(source, folder)
    return source


def _vectors(path: Path) -> dict[str, tuple[Column, np.ndarray]]:
    """{modality: (item ids, values)} from the float_seq columns of a .item file."""
    names = column_names(path)
    columns = [name for name in names if name.endswith(":float_seq")]
    meanings = standard_names(names)
    if not columns or "item" not in meanings:
        return {}
    table = read_table(path, [meanings["item"]], columns, "\t")
    features = {}
    for name in columns:
        rows = [np.array(text.split(), np.float32) for text in table[name].texts]
        if len({len(row) for row in rows}) > 1:
            raise InputError(f"{path}: the rows of {name} have different lengths; make them equal or remove the column")
        features[re.sub(r"_?feat$", "", name.partition(":")[0]) or "item"] = (
            table[meanings["item"]],
            np.stack(rows)[table[name].codes],
        )
    return features
