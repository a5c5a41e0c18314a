"""The files with which a model is asked: histories, pairs, new items, and tables of items."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.cells import BAR, read_columns
from ..data.features import ENDS, feature_files
from ..data.files import check_named, existing_file
from ..data.named_features import read_named_features
from ..data.tables import read_table
from ..errors import InputError, shown
from ..runs.saved_model import Model


def read_pairs(path: Path) -> tuple[list[str], list[str]]:
    """(users, items) of a table with the columns user and item, as texts."""
    check_named(path)
    table = read_table(path, ["user", "item"])
    users, items = ([table[name].texts[code] for code in table[name].codes.tolist()] for name in ("user", "item"))
    return users, items


def read_histories(path: Path, known: Container[str] | None = None) -> dict[str, list[str]]:
    """{user: items} of a table with the columns user and item, in the order of the users in the file.

    known: the items of the model. Raises InputError for the first row with another one. None: all are read.
    """
    histories: dict[str, list[str]] = {}
    for row, (user, item) in enumerate(zip(*read_pairs(path), strict=True), 1):
        if known is not None and item not in known:
            raise InputError(
                f"{path}: row {row} has the item {shown(item)}, which the model does not know; remove the row, or give "
                "--skip-unknown"
            )
        histories.setdefault(user, []).append(item)
    if not histories:
        raise InputError(f"{path}: contains no history; give rows with user and item")
    return histories


def read_new_items(sources: Sequence[str], widths: Mapping[str, int]) -> tuple[list[str], dict[str, np.ndarray]]:
    """(ids, {modality: features [n, d_m]}) from feature files with ids, or folders of them.

    A source is a folder with <modality>_feat files, a file of such a name, MODALITY=FILE, or any file if there is one
    modality only. widths: {modality of the model: columns d_m}. Raises InputError for a file without ids or of another
    width, a missing or repeated modality, and files whose ids differ.
    """
    modalities = list(widths)
    paths: dict[str, Path] = {}
    for source in sources:
        for name, path in _by_modality(source, modalities).items():
            if name in paths:
                raise InputError(f"{path}: {paths[name]} already has the modality {shown(name)}; give only one of them")
            paths[name] = path
    missing = [name for name in modalities if name not in paths]
    if missing:
        raise InputError(
            f"{sources[0]}: the features {', '.join(map(repr, missing))} of the new items are missing; give a file for "
            f"every modality of the model ({', '.join(modalities)}), as MODALITY=FILE"
        )
    ids: list[str] = []
    features: dict[str, np.ndarray] = {}
    for name in modalities:
        check_named(paths[name])
        path = existing_file(paths[name])
        if path.suffix not in ENDS or path.suffix == ".npy":
            raise InputError(f"{path}: has no ids; write the features of new items as .parquet, .npz or .safetensors")
        column, values = read_named_features(path, widths[name])
        if values.shape[1] != widths[name]:
            raise InputError(
                f"{path}: has {values.shape[1]} columns, but the model was trained on {widths[name]} columns of "
                f"{shown(name)}; compute the features of new items like those of training"
            )
        own = [column.texts[code] for code in column.codes.tolist()]
        if not features:
            ids = own
            _refuse_repeated(path, ids)
        features[name] = values[_places(path, own, ids)]
    return ids, features


def read_unknown_items(
    sources: Sequence[str], widths: Mapping[str, int], model: Model
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """`read_new_items` without the items of the model: (ids, features, number of items that were left out)."""
    ids, features = read_new_items(sources, widths)
    fresh = [row for row, item in enumerate(ids) if item not in model.interactions.item_index]
    left = {name: values[fresh] for name, values in features.items()}
    return [ids[row] for row in fresh], left, len(ids) - len(fresh)


def _by_modality(source: str, modalities: Sequence[str]) -> dict[str, Path]:
    name, equals, file = source.partition("=")
    if equals and name in modalities:
        return {name: Path(file)}
    path = Path(source)
    if path.is_dir():
        return {name: path for name, path in feature_files(path).items() if name in modalities}
    for name in modalities:
        if path.name == f"{name}_feat{path.suffix}":
            return {name: path}
    if len(modalities) == 1:
        return {modalities[0]: path}
    raise InputError(
        f"{source}: its modality is not known; give MODALITY=FILE with one of {', '.join(modalities)}, or name it "
        f"{modalities[0]}_feat{path.suffix or '.parquet'}"
    )


def _refuse_repeated(path: Path, ids: list[str]) -> None:
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise InputError(f"{path}: has two rows for the item {shown(item)}; keep only one")
        seen.add(item)


def _places(path: Path, own: list[str], ids: list[str]) -> np.ndarray:
    """The rows of the file in the order of ids."""
    place = {item: row for row, item in enumerate(own)}
    if len(place) != len(own) or place.keys() != set(ids):
        other = next(iter(set(ids).symmetric_difference(place)), ids[0])
        raise InputError(f"{path}: its items differ from those of the first feature file, such as {shown(other)}")
    return np.array([place[item] for item in ids], np.int64)


def read_filtered(path: Path, conditions: Iterable[str]) -> list[str]:
    """The ids of the items in a table that satisfy all conditions COLUMN=VALUE.

    A cell satisfies a condition if it equals the value, or if one of its parts between bars does: Action|Comedy. Of
    several conditions with the same column, one must be satisfied. Cells may be empty.
    """
    wanted: dict[str, set[str]] = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise InputError(f"--filter {shown(condition)}: must be COLUMN=VALUE")
        wanted.setdefault(column.strip(), set()).add(whole(value.strip()))
    columns = read_columns(path, ["item", *wanted])
    kept = []
    for item, *cells in zip(*(columns[name] for name in ("item", *wanted)), strict=True):
        if all(values_of(cell) & allowed for cell, allowed in zip(cells, wanted.values(), strict=True)):
            kept.append(item)
    if not kept:
        asked = ", ".join(f"{column}={' or '.join(sorted(values))}" for column, values in wanted.items())
        raise InputError(f"{path}: no item has {asked}; check the spelling of the value")
    return kept


def values_of(cell: str) -> set[str]:
    """The values that a cell has for a filter: the whole cell, and each part between bars."""
    return {whole(one) for one in (cell, *(part.strip() for part in cell.split(BAR)))}


def item_texts(
    path: str | Path, columns: Sequence[str], known: Container[str] | None = None
) -> dict[str, dict[str, str]]:
    """{column: {item: its cell}} of a table of items, such as titles. Ids and cells are texts; an empty cell is "".

    path: table with a column item. If two rows have the same item, the first one counts. known: the items of a model.
    Raises InputError for a column that the table does not have, and if none of its items is known.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "items.csv"
    ...     _ = table.write_text("item,title,year\\n7,Heat,1995\\n12,Big,1988\\n")
    ...     titles = item_texts(table, ["title"])["title"]
    >>> [titles[str(item)] for item in np.array([12, 7])]
    ['Big', 'Heat']
    """
    cells = read_columns(Path(path), list(dict.fromkeys(["item", *columns])))
    items = cells["item"]
    if known is not None and not any(item in known for item in items):
        raise InputError(f"{path}: none of its items is an item of the model; give ids as in the data")
    backwards = range(len(items) - 1, -1, -1)
    return {name: {items[row]: cells[name][row] for row in backwards} for name in columns}


def whole(text: str) -> str:
    """1999 for 1999.0, as pandas writes integers of which some are missing, and any other text as it is. Not for ids,
    which have to be those of the model."""
    shorter = text.removesuffix(".0")
    return shorter if shorter.removeprefix("-").isdecimal() else text
