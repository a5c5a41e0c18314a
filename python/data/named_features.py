"""Feature files that carry the items' ids: Parquet, .npz and safetensors."""

import math
import zipfile
import zlib
from contextlib import contextmanager

import numpy as np

from ..errors import InputError, shown
from .files import existing_file
from .npy import finite, npy_header
from .tables import Column, check_ids, read_table

_EXPANSION = 200
_SMALL = 1 << 26


def read_feature_ids(path):
    """The Column of item ids in a feature file that carries them; raises InputError for an id that occurs twice."""
    if path.suffix == ".parquet":
        column = read_table(path, ["item"])["item"]
    else:
        column = _column(path, _arrays(path, values=False)[0])
    if len(column.texts) < len(column.codes):
        counts = np.bincount(column.codes)
        row = int(np.flatnonzero(column.codes == counts.argmax())[1]) + 1
        raise InputError(f"{path}: row {row} is of item {shown(column.texts[int(counts.argmax())])} again; keep one")
    return column


def read_named_features(path):
    """(Column of item ids, features [n, d]) of a .parquet, .npz or .safetensors file; features as in read_features.

    Parquet: a column `item` and one column of lists of equally many numbers. .npz: `ids`, integers or text, and one
    other array of two dimensions, as numpy.savez writes them. safetensors: `ids`, int64 [n], or uint8 [n, longest] of
    UTF-8 filled up with zeros, and one other tensor of two dimensions.
    """
    if path.suffix == ".parquet":
        table = read_table(path, ["item"], vectors=True)
        if len(table.vectors) != 1:
            there = ", ".join(table.vectors) or "none"
            raise InputError(
                f"{path}: has {len(table.vectors)} columns of lists of numbers ({there}); beside item there must be one"
            )
        column, values = table["item"], next(iter(table.vectors.values()))
    else:
        ids, values = _arrays(path)
        column = _column(path, ids)
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"{path}: has features of the shape {values.shape}; give a matrix, one row for every item")
    if len(values) != len(column.codes):
        raise InputError(f"{path}: has {len(column.codes)} ids for {len(values)} rows; give one id a row")
    return column, finite(path, values)


def _column(path, ids):
    """The Column of an array of ids: integers, text, or rows of UTF-8 bytes."""
    if ids.ndim == 2 and ids.dtype == np.uint8:
        texts = [bytes(row).rstrip(b"\0") for row in ids]
    elif ids.ndim == 1 and ids.dtype.kind in "iuUS":
        texts = ids.tolist()
    else:
        raise InputError(
            f"{path}: has ids of type {ids.dtype} and shape {ids.shape}; give integers or text, one for every row"
        )
    try:
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in texts]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: ids are not UTF-8 ({shown(str(error))}); write them again") from None
    seen = {}
    codes = np.array([seen.setdefault(text, len(seen)) for text in texts], np.int64)
    return check_ids(path, "item", Column(list(seen), codes))


def _arrays(path, values=True):
    """(ids, features or None) of a .npz or .safetensors file."""
    open_file = _open_npz if path.suffix == ".npz" else _open_safetensors
    with open_file(existing_file(path)) as (names, read):
        others = [name for name in names if name != "ids"]
        if "ids" not in names or len(others) != 1:
            raise InputError(
                f"{path}: holds {shown(', '.join(names), 120) if names else 'nothing'}; it must hold ids and one "
                "matrix of features"
            )
        return read("ids"), read(others[0]) if values else None


@contextmanager
def _open_npz(path):
    """(names, read) of a zip file of .npy files."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            size = path.stat().st_size
            if sum(info.file_size for info in entries.values()) > max(_SMALL, _EXPANSION * size):
                raise InputError(f"{path}: unfolds to far more than its {size} bytes; write it again with numpy.savez")

            def read(name):
                with archive.open(entries[name]) as file:
                    dtype, fortran, shape = npy_header(f"{path}, {name}", file, entries[name].file_size, name == "ids")
                    array = np.frombuffer(file.read(), dtype)
                if len(array) != math.prod(shape):
                    raise InputError(f"{path}: {name} is cut off; write it again with numpy.savez")
                return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)

            yield list(entries), read
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: is not a readable .npz file ({shown(str(error))}); write it with numpy.savez"
        ) from None


@contextmanager
def _open_safetensors(path):
    """(names, read) of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    def read(name):
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
