"""Reading sparse matrices from pickle files without unpickling them.

A pickle is a program for a stack machine, which can call any importable function. This module does not run it. It goes
through the opcodes (pickletools.genops) with a stack of plain data. If the program names a callable, the exact (module,
name) must be in the table _MEANINGS; everything else is refused. Nothing is imported, called or constructed for the
file, not even `__setstate__` of SciPy or NumPy. Lengths, shapes and indices are checked before a matrix is built,
because the C++ code of SciPy does not check its indices.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import InputError, shown
from .files import read_bytes

_SPARSE = {
    (f"scipy.sparse{module}", f"{kind}_{flavour}"): kind
    for kind in ("coo", "csr")
    for module in ("", f".{kind}", f"._{kind}")
    for flavour in ("matrix", "array")
}
_MEANINGS = {
    **{name: ("sparse", kind) for name, kind in _SPARSE.items()},
    ("numpy.core.multiarray", "_reconstruct"): ("reconstruct", None),
    ("numpy._core.multiarray", "_reconstruct"): ("reconstruct", None),
    ("numpy.core.multiarray", "scalar"): ("scalar", None),
    ("numpy._core.multiarray", "scalar"): ("scalar", None),
    ("numpy.core.numeric", "_frombuffer"): ("frombuffer", None),
    ("numpy._core.numeric", "_frombuffer"): ("frombuffer", None),
    ("numpy", "ndarray"): ("ndarray", None),
    ("numpy", "dtype"): ("dtype", None),
    ("_codecs", "encode"): ("latin1", None),
    ("__builtin__", "bytes"): ("bytes", None),
    ("builtins", "bytes"): ("bytes", None),
    ("copy_reg", "_reconstructor"): ("reconstructor", None),
    ("copyreg", "_reconstructor"): ("reconstructor", None),
    ("__builtin__", "object"): ("object", None),
    ("builtins", "object"): ("object", None),
}
_NUMBER = re.compile(r"[iu][1248]|f[248]|b1|\?")
_LARGEST_SIDE = 2**31 - 1
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()
_DAMAGED = ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError, UnicodeError
T = TypeVar("T")
S = TypeVar("S", bound=Sized)


class _Named(NamedTuple):
    """A callable that the file names, represented by its meaning in _MEANINGS."""

    meaning: str
    kind: str | None


class _Node:
    """A sparse matrix, an array or a dtype that the file describes, with its arguments and state as plain data."""

    __slots__ = ("arguments", "kind", "state", "type")

    def __init__(self, node_type: str, kind: str | None = None, arguments: tuple[Any, ...] = ()) -> None:
        self.type, self.kind, self.arguments, self.state = node_type, kind, arguments, None


class _Refused(Exception):
    """The file contains something that is not allowed; the message says what."""


class SparsePairs(NamedTuple):
    """The stored entries of a matrix: rows and columns int64 [n], values float64 [n]; shape: (rows, columns)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]


def read_sparse_pickle(path: Path) -> SparsePairs:
    """Equals `m = pickle.load(open(path, "rb")).tocoo(); (m.row, m.col, m.data, m.shape)` for SciPy COO and CSR.

    Supports the output of `pickle.dump` in any protocol for coo_matrix, csr_matrix, coo_array and csr_array of SciPy
    0.19 or newer, with integer, boolean or floating-point data. Returns SparsePairs with the entries in the order of
    the file.

    Raises InputError for other callables, object arrays, damaged or truncated files, inconsistent lengths, indices
    outside the shape, and values that are not finite. Nothing is executed.
    """
    content = read_bytes(path)
    return _read(path, lambda: _matrix(_interpret(content)))


def read_integer_lists(path: Path) -> list[list[int]]:
    """Equals `[list(row) for row in np.load(path, allow_pickle=True)]` for a .npy file whose entries are lists, tuples
    or arrays of integers. Nothing is executed. Raises InputError for anything else."""
    content = read_bytes(path)
    start = content.find(b"\n") + 1 if content[:6] == b"\x93NUMPY" else 0
    if b"O'" not in content[:start]:
        raise InputError(f"{path}: is not a .npy file of lists; write it with numpy.save")
    return _read(path, lambda: [_integers(row) for row in _objects(_interpret(content[start:]))])


def _read(path: Path, read: Callable[[], T]) -> T:
    """The result of read(). A refusal, and any exception caused by a damaged file, is raised as InputError."""
    try:
        return read()
    except _Refused as refusal:
        raise InputError(f"{path}: {refusal}") from None
    except _DAMAGED as error:
        raise InputError(
            f"{path}: is not a readable pickle ({type(error).__name__}: {shown(str(error))}); write it again with "
            "pickle.dump"
        ) from None


def _interpret(content: bytes) -> Any:
    """The value of a pickle, as plain data and _Nodes."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def pop_to_mark() -> list[Any]:
        for position in range(len(stack) - 1, -1, -1):
            if stack[position] is _MARK:
                items = stack[position + 1 :]
                del stack[position:]
                return items
        raise _Refused("is a damaged pickle (no mark on the stack); write it again with pickle.dump")

    argument: Any
    items: Any
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            items = tuple(stack[-size:])
            del stack[-size:]
            stack.append(_values(items, size))
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name == "LIST":
            stack.append(pop_to_mark())
        elif name == "APPEND":
            item = stack.pop()
            _checked(list, stack[-1]).append(item)
        elif name == "APPENDS":
            items = pop_to_mark()
            _checked(list, stack[-1]).extend(items)
        elif name == "DICT":
            stack.append(_fill({}, pop_to_mark()))
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            _fill(_checked(dict, stack[-1]), items)
        elif name == "SETITEMS":
            items = pop_to_mark()
            _fill(_checked(dict, stack[-1]), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(_look_up(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_look_up(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(_stand_in(called, _checked(tuple, arguments), name))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Node) or stack[-1].state is not None:
                raise _Refused("sets a state on something other than a matrix, array or dtype, which is not supported")
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"uses the pickle operation {name}, which SciPy matrices do not need; it was not executed")
    raise _Refused("is a truncated pickle; copy or write it again")


def _look_up(module: Any, attribute: Any) -> _Named:
    if isinstance(module, str) and isinstance(attribute, str) and (module, attribute) in _MEANINGS:
        return _Named(*_MEANINGS[module, attribute])
    called = (
        f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "an unnamed callable"
    )
    raise _Refused(
        f"contains {shown(called, 120)}, which is not allowed in a data file; nothing was executed. Pickles may only "
        "contain SciPy COO and CSR matrices of numbers"
    )


def _stand_in(called: Any, arguments: tuple[Any, ...], operation: str) -> Any:
    if not isinstance(called, _Named):
        raise _Refused(f"applies the pickle operation {operation} to something that is not callable")
    meaning = called.meaning
    if meaning == "sparse":
        return _Node("sparse", called.kind)
    if (
        meaning == "reconstructor"
        and arguments
        and isinstance(arguments[0], _Named)
        and arguments[0].meaning == "sparse"
    ):
        return _Node("sparse", arguments[0].kind)
    if meaning == "dtype":
        return _Node("dtype", None, arguments)
    if meaning in ("reconstruct", "frombuffer", "scalar"):
        return _Node("array", meaning, arguments)
    if meaning == "latin1" and 1 <= len(arguments) <= 2 and arguments[1:] in ((), ("latin1",)):
        return _checked(str, arguments[0]).encode("latin1")
    if meaning == "bytes" and arguments == ():
        return b""
    raise _Refused("calls a NumPy or codec function in a way that no matrix does; it was not executed")


def _matrix(root: Any) -> SparsePairs:
    if not (isinstance(root, _Node) and root.type == "sparse"):
        raise _Refused(
            f"contains {_kind_name(root)}, not a SciPy COO or CSR matrix; write one with pickle.dump(coo_matrix, file)"
        )
    state = root.state[0] if isinstance(root.state, tuple) and root.state else root.state
    state = _checked(dict, state)
    shape = state.get("_shape", state.get("shape"))
    shape = tuple(_integer(side) for side in _values(_checked(tuple, shape), 2))
    if not all(0 <= side <= _LARGEST_SIDE for side in shape):
        raise _Refused(f"declares the shape {shown(shape[0])} x {shown(shape[1])}; each side must be in 0..2^31-1")
    values = _array(_entry(state, "data"), "data")
    if root.kind == "coo":
        rows, columns = _coordinates(state)
    else:
        columns = _indices(_entry(state, "indices"), "indices")
        rows = _rows_of(_indices(_entry(state, "indptr"), "indptr"), shape[0], len(columns))
    if not len(rows) == len(columns) == len(values):
        raise _Refused(
            f"contains {len(rows)} rows, {len(columns)} columns and {len(values)} values; the numbers must be equal"
        )
    for axis, index, side in (("row", rows, shape[0]), ("column", columns, shape[1])):
        outside = np.flatnonzero((index < 0) | (index >= side))
        if len(outside):
            raise _Refused(
                f"entry {outside[0]} has {axis} {index[outside[0]]}, outside the shape {shape}; write the matrix again"
            )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise _Refused(f"entry {np.flatnonzero(~np.isfinite(values))[0]} is not finite; write the matrix again")
    return SparsePairs(rows, columns, values, shape)


def _objects(root: Any) -> list[Any]:
    """The entries of a one-dimensional array of Python objects."""
    if not (isinstance(root, _Node) and root.kind == "reconstruct"):
        raise _Refused(f"contains {_kind_name(root)}, not an array of lists")
    _, shape, _, _, entries = _values(_checked(tuple, root.state), 5)
    (length,) = _values(_checked(tuple, shape), 1)
    return _values(_checked(list, entries), _integer(length))


def _integers(row: Any) -> list[int]:
    """The integers in a list, a tuple or an array."""
    if isinstance(row, _Node) and row.kind != "scalar":
        return _indices(row, "an entry").tolist()
    if not isinstance(row, (list, tuple)):
        raise _Refused(f"contains {_kind_name(row)} instead of a list of integers")
    return [_integer(value) for value in row]


def _coordinates(state: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if "coords" in state:
        rows, columns = _values(_checked(tuple, state["coords"]), 2)
    else:
        rows, columns = _entry(state, "row"), _entry(state, "col")
    return _indices(rows, "row"), _indices(columns, "col")


def _rows_of(indptr: np.ndarray, n_rows: int, n_entries: int) -> np.ndarray:
    decreasing = (indptr[1:] < indptr[:-1]).any()  # compared directly: differences could overflow
    if len(indptr) != n_rows + 1 or indptr[0] != 0 or indptr[-1] != n_entries or decreasing:
        raise _Refused(f"indptr must have {n_rows + 1} values that increase from 0 to {n_entries}; write it again")
    return np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(indptr))


def _indices(node: Any, name: str) -> np.ndarray:
    array = _array(node, name)
    if array.dtype.kind not in "iu":
        raise _Refused(f"{name} contains {array.dtype} values; indices must be integers")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise _Refused(f"{name} contains {array.max()}, which is too large for an index")
    return array.astype(np.int64)


def _array(node: Any, name: str) -> np.ndarray:
    """The one-dimensional array of an array node, from its bytes."""
    if not (isinstance(node, _Node) and node.type == "array"):
        raise _Refused(f"{name} contains {_kind_name(node)}, not an array")
    if node.kind == "frombuffer":
        content, dtype, shape, _ = _values(node.arguments, 4)
    elif node.kind == "reconstruct":
        _, shape, dtype, _, content = _values(_checked(tuple, node.state), 5)
    else:
        raise _Refused(f"{name} contains a NumPy scalar, not an array")
    dtype = _dtype(dtype, name)
    content = content.encode("latin1") if isinstance(content, str) else _checked(bytes, content)
    (length,) = _values(_checked(tuple, shape), 1)
    if _integer(length) * dtype.itemsize != len(content):
        raise _Refused(
            f"{name} declares {shown(length)} values of {dtype} but contains {len(content)} bytes; copy the file again"
        )
    return np.frombuffer(content, dtype)


def _dtype(node: Any, name: str) -> np.dtype:
    if not (isinstance(node, _Node) and node.type == "dtype" and node.arguments):
        raise _Refused(f"{name} has {_kind_name(node)} instead of a dtype")
    code = node.arguments[0]
    if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
        raise _Refused(
            f"{name} has dtype {shown(code)}; only integers, booleans and floats of 2 to 8 bytes are supported"
        )
    order: Any = "="
    if node.state is not None:
        order = _checked(tuple, node.state)[1]
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"{name} has the byte order {shown(order)}; it must be < or >")
    return np.dtype(code).newbyteorder(order)


def _entry(state: dict[str, Any], key: str) -> Any:
    if key not in state:
        raise _Refused(f"the matrix has no {key}; write it again with pickle.dump")
    return state[key]


def _integer(value: Any) -> int:
    if isinstance(value, _Node) and value.kind == "scalar" and len(value.arguments) == 2:
        dtype, content = _dtype(value.arguments[0], "a scalar"), value.arguments[1]
        content = content.encode("latin1") if isinstance(content, str) else _checked(bytes, content)
        if dtype.kind in "iu" and len(content) == dtype.itemsize:
            return int(np.frombuffer(content, dtype)[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Refused(f"contains {_kind_name(value)} instead of an integer")


def _values(items: S, count: int) -> S:
    if len(items) != count:
        raise _Refused(f"is a damaged pickle ({len(items)} values instead of {count}); write it again with pickle.dump")
    return items


def _fill(target: dict[str, Any], items: list[Any]) -> dict[str, Any]:
    if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
        raise _Refused("is a damaged pickle (a dictionary key is not text); write it again with pickle.dump")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _checked(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise _Refused(f"contains {_kind_name(value)} instead of {kind.__name__}; write it again with pickle.dump")
    return value


def _kind_name(value: Any) -> str:
    if value is _MARK:
        return "a stack mark"
    if isinstance(value, _Node):
        return {"sparse": "a sparse matrix", "array": "a NumPy array", "dtype": "a dtype"}[value.type]
    return f"a {type(value).__name__}"
