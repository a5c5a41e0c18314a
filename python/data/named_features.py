"""Feature files with item ids: Parquet, .npz and safetensors."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, shown
from .arrow import Column, check_ids
from .files import existing_file
from .ids import check_distinct
from .npy import finite, npy_header
from .tables import read_table

# An archive that decompresses to more than this is refused.
_EXPANSION, _SMALL = 200, 1 << 26


def read_feature_ids(path: Path) -> Column:
    """The Column of item ids in a feature file. Raises InputError if an id occurs twice."""
    if path.suffix == ".parquet":
        column = read_table(path, ["item"])["item"]
    else:
        column = _column(path, _arrays(path, values=False)[0])
    check_distinct(path, "item", column)
    return column


def read_named_features(path: Path, width: int | None = None) -> tuple[Column, np.ndarray]:
    """(Column of item ids, features [n, d]) of a .parquet, .npz or .safetensors file. Dtypes as in read_features.

    Parquet: a column `item`, and one column of lists of numbers, all of the same length. .npz (numpy.savez): an array
    `ids` of integers or text, and one two-dimensional array. safetensors: a tensor `ids`, either int64 [n] or UTF-8 as
    uint8 [n, longest] padded with zeros, and one two-dimensional tensor.

    width: columns of a Parquet file in which every row is missing; None: such a file is refused.
    """
    if path.suffix == ".parquet":
        table = read_table(path, ["item"], vectors=True)
        if len(table.vectors) != 1:
            names = ", ".join(table.vectors) or "none"
            raise InputError(
                f"{path}: has {len(table.vectors)} columns with lists of numbers ({names}); it must have exactly one"
            )
        column, (name, values) = table["item"], next(iter(table.vectors.items()))
        if len(values) and not values.shape[1]:
            if width is None:
                raise InputError(f"{path}: column {name} has no values in any row; add features or remove the file")
            values = np.full((len(values), width), np.nan, np.float32)
    else:
        ids, values = _arrays(path)
        column = _column(path, ids)
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"{path}: the features have the shape {values.shape}; write a matrix with one row per item")
    if len(values) != len(column.codes):
        raise InputError(f"{path}: has {len(column.codes)} ids for {len(values)} rows; write one id per row")
    return column, finite(path, values)


def _column(path: Path, ids: np.ndarray) -> Column:
    """The Column of an array of ids: integers, text, or rows of UTF-8 bytes."""
    if ids.ndim == 2 and ids.dtype == np.uint8:
        values: list[Any] = [bytes(row).rstrip(b"\0") for row in ids]
    elif ids.ndim == 1 and ids.dtype.kind in "iuUS":
        values = ids.tolist()
    else:
        raise InputError(
            f"{path}: the ids have dtype {ids.dtype} and shape {ids.shape}; write integers or text, one per row"
        )
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the ids are not UTF-8 ({shown(str(error))}); write them again") from None
    return check_ids(path, "item", Column.of(texts))


def _arrays(path: Path, values: bool = True) -> tuple[np.ndarray, Any]:
    """(ids, features or None) of a .npz or .safetensors file."""
    open_file = _open_npz if path.suffix == ".npz" else _open_safetensors
    with open_file(existing_file(path)) as (names, read):
        matrices = [name for name in names if name != "ids"]
        if "ids" not in names or len(matrices) != 1:
            raise InputError(
                f"{path}: contains {shown(', '.join(names), 120) if names else 'nothing'}; it must contain ids and one "
                "matrix of features"
            )
        return read("ids"), read(matrices[0]) if values else None


@contextmanager
def _open_npz(path: Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """(array names, function that reads one array) of a .npz file. Arrays are read without pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            size = path.stat().st_size
            if sum(info.file_size for info in entries.values()) > max(_SMALL, _EXPANSION * size):
                raise InputError(f"{path}: decompresses to far more than its {size} bytes; write it with numpy.savez")

            def read(name: str) -> np.ndarray:
                with archive.open(entries[name]) as file:
                    dtype, fortran, shape = npy_header(f"{path}, {name}", file, entries[name].file_size, name == "ids")
                    array = np.frombuffer(file.read(), dtype)
                if len(array) != math.prod(shape):
                    raise InputError(f"{path}: {name} is truncated; write it again with numpy.savez")
                return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)

            yield list(entries), read
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: is not a readable .npz file ({shown(str(error))}); write it with numpy.savez"
        ) from None


@contextmanager
def _open_safetensors(path: Path) -> Iterator[tuple[list[str], Callable[[str], np.ndarray]]]:
    """(tensor names, function that reads one tensor) of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> np.ndarray:
        tensor = file.get_tensor(name)
        return (
            tensor.float()
            if (tensor.is_floating_point() and tensor.element_size() != 2) or "bfloat" in str(tensor.dtype)
            else tensor
        ).numpy()

    try:
        with safe_open(path, "pt") as file:
            yield list(file.keys()), read
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({shown(str(error))}); write it again") from None
