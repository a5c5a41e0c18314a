"""Reading .npy files. The header is checked against the file size before memory is allocated."""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from ..errors import InputError, shown
from .files import existing_file

_HEADER = re.compile(
    r"\{\s*'descr':\s*(?P<descr>.{1,200}?),\s*'fortran_order':\s*(?P<fortran>True|False),\s*"
    r"'shape':\s*\((?P<shape>[0-9, ]{0,100})\),?\s*\}\s*",
    re.DOTALL,
)
_DESCR = re.compile(r"'[<>|=](?:f[248]|[iu][1248]|b1)'")
_ID_DESCR = re.compile(r"'[<>|=](?:[iu][1248]|[SU][1-9][0-9]{0,3})'")
_LONGEST_HEADER = 65536
_VALUES_AT_ONCE = 1 << 22  # that are converted and checked


def read_features(path: Path, n_items: int | None = None) -> np.ndarray:
    """Equals `np.load(path, allow_pickle=False)` as float32 [I, d] in C order. float16 stays float16. Row = item index.

    In a process that torchrun has started, the values are memory-mapped copy-on-write if they need no conversion. A row
    of NaN is a missing one. Raises InputError if the file is not a complete .npy file of numbers, is not
    two-dimensional, has no columns, does not have n_items rows (None: any number), or has another value that is not
    finite in float32.
    """
    try:
        with existing_file(path).open("rb") as file:
            dtype, fortran, shape = _header(path, file)
            if n_items is not None and shape[0] != n_items:
                raise InputError(
                    f"{path}: has {shape[0]} rows for {n_items} items; it needs one row per item, in item order"
                )
            if _is_mapped(dtype, fortran, shape):
                array = np.asarray(np.memmap(file, dtype, "c", file.tell(), (math.prod(shape),)))
            else:
                array = np.fromfile(file, dtype, math.prod(shape))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except MemoryError:
        raise InputError(
            f"{path}: {shape[0]} x {shape[1]} values of {dtype} do not fit into memory; save them as float16"
        ) from None
    except ValueError:  # it cannot be mapped
        array = np.empty(0, dtype)
    if len(array) != math.prod(shape):
        raise InputError(f"{path}: became shorter while it was read; wait until it has been written")
    return finite(path, array.reshape(shape[::-1]).T if fortran else array.reshape(shape))


def _is_mapped(dtype: np.dtype, fortran: bool, shape: tuple[int, ...]) -> bool:
    """Whether features are memory-mapped: if several processes of a run read them, each of which needs a part."""
    native = dtype.isnative and dtype.kind == "f" and dtype.itemsize in (2, 4)
    return native and not fortran and math.prod(shape) > 0 and int(os.environ.get("WORLD_SIZE") or 1) > 1


def release(values: np.ndarray) -> None:
    """Give the memory of a memory-mapped array back to the system, which reads it again when it is used.

    Nothing for other arrays, for an array that was modified, and on systems other than Linux.
    """
    mapping = _mapping(values)
    if mapping is not None and not _is_modified(mapping):
        mapping.madvise(mmap.MADV_DONTNEED)


def _is_modified(mapping: mmap.mmap) -> bool:
    """Whether pages of the mapping have been copied because they were written to, or the system does not tell."""
    begin, inside = np.frombuffer(mapping, np.uint8).ctypes.data, False
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    for key, *rest in map(str.split, lines):
        if not key.endswith(":"):
            first, last = (int(side, 16) for side in key.split("-"))
            inside = first < begin + len(mapping) and last > begin
        elif inside and key == "Anonymous:" and rest[0] != "0":
            return True
    return False


def _mapping(values: np.ndarray) -> mmap.mmap | None:
    base: object = values
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def feature_blocks(path: Path, n_items: int) -> Iterator[np.ndarray]:
    """The rows of read_features(path, n_items) in blocks."""
    try:
        with existing_file(path).open("rb") as file:
            _, _, shape = _header(path, file)
        if shape[0] != n_items:
            raise InputError(
                f"{path}: has {shape[0]} rows for {n_items} items; it needs one row per item, in item order"
            )
        values = np.load(path, mmap_mode="r", allow_pickle=False) if n_items else np.empty(shape, np.float32)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); check its permissions") from None
    step = max(1, _VALUES_AT_ONCE // shape[1])
    for begin in range(0, n_items, step):
        yield finite(path, np.asarray(values[begin : begin + step]), begin)


def npy_rows(path: Path) -> int:
    """The number of rows of a .npy file, read from its header."""
    try:
        with existing_file(path).open("rb") as file:
            return _header(path, file)[2][0]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _header(path: Path, file: BinaryIO) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """(dtype, fortran_order, shape) of an open .npy file. The file position is then at the first value."""
    size = file.seek(0, 2)
    file.seek(0)
    return npy_header(path, file, size)


def npy_header(
    path: str | Path, file: IO[bytes], size: int, ids: bool = False
) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """The same for a stream of `size` bytes. ids: whether the array contains ids, which may be text and have any shape.

    Raises InputError if the header is malformed or does not match the size.
    """
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise InputError(f"{path}: is not a .npy file; write it with numpy.save")
    width = 2 if magic[6] == 1 else 4
    field = file.read(width)
    length = struct.unpack("<H" if width == 2 else "<I", field)[0] if len(field) == width else 0
    header = file.read(min(length, _LONGEST_HEADER)).decode("latin1")
    parts = _HEADER.fullmatch(header)
    if length > _LONGEST_HEADER or len(header) != length or not parts:
        raise InputError(
            f"{path}: has an unsupported .npy header; write it with numpy.save as a float32 or float16 matrix"
        )
    descr = parts["descr"]
    if "O" in descr:
        advice = "the ids as text or integers, for example ids.astype(str)" if ids else "the array with dtype float32"
        raise InputError(f"{path}: contains Python objects, which are not supported; save {advice}")
    if not (_ID_DESCR if ids else _DESCR).fullmatch(descr):
        raise InputError(
            f"{path}: has dtype {shown(descr)}; save it as {'integers or text' if ids else 'float32 or float16'}"
        )
    shape = tuple(int(side) for side in parts["shape"].split(",") if side.strip().isdigit())
    if len(shape) != 2 and not ids:
        raise InputError(f"{path}: has {len(shape)} dimensions; features must be a matrix with one row per item")
    if not ids and shape[1] == 0:
        raise InputError(f"{path}: has no columns; add features or remove the file")
    dtype = np.dtype(descr[1:-1])
    available = size - 8 - width - length
    if math.prod(shape) * dtype.itemsize != available or not dtype.itemsize:
        sides = " x ".join(map(shown, shape))
        raise InputError(f"{path}: declares {sides} {dtype} but contains {available} bytes; copy the file again")
    return dtype, parts["fortran"] == "True", shape


def finite(path: Path, array: np.ndarray, start: int = 0) -> np.ndarray:
    """The array as float32 or float16 in C order and native byte order. Raises InputError for a non-finite value,
    except in missing rows, which are NaN in every column.

    start: number of rows of the file before the array, for the row in the message.
    """
    dtype = np.float16 if array.dtype.kind == "f" and array.dtype.itemsize == 2 else np.float32
    same = array.dtype == dtype and array.flags.c_contiguous
    out = array if same else np.empty(array.shape, dtype)
    step = max(1, _VALUES_AT_ONCE // array.shape[1])
    for begin in range(0, len(array), step):
        if not same:
            with np.errstate(over="ignore"):
                out[begin : begin + step] = array[begin : begin + step]
        bad = ~np.isfinite(out[begin : begin + step])
        if bad.any():
            block = out[begin : begin + step]
            bad[np.isnan(block).all(1)] = False
        if bad.any():
            row, column = (int(index[0]) for index in np.nonzero(bad))
            value = array[begin + row, column]
            rule = "float32 cannot represent it" if np.isfinite(value) else "features must be finite"
            whole = ", or set the whole row to NaN if it is missing" if np.isnan(value) else ""
            raise InputError(
                f"{path}: row {start + begin + row}, column {column} is {value}; {rule}; replace it or remove the file"
                f"{whole}"
            )
    release(array)
    return out


def read_integers(path: Path) -> np.ndarray:
    """Equals `np.load(path, allow_pickle=False)` as int64 for a .npy file of integers."""
    try:
        with existing_file(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            dtype, fortran, shape = npy_header(path, file, size, ids=True)
            array = np.fromfile(file, dtype, math.prod(shape))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if dtype.kind not in "iu":
        raise InputError(f"{path}: contains {dtype} values; indices must be integers")
    if dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{path}: contains {array.max()}, which is too large for an index")
    array = array.astype(np.int64)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
