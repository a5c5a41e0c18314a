"""Sparse matrices out of pickle files, without unpickling.

A pickle is a program for a stack machine that may call anything importable. This reader never runs one: it walks the
opcodes (pickletools.genops) with a stack of plain data, and where the program names a callable it looks the exact
(module, name) up in a table of ten meanings. Anything else is refused by name. Nothing is imported, called or
constructed on the file's behalf, not even SciPy's or NumPy's own `__setstate__`; lengths, shapes and indices are
checked here before a matrix is made of them, for SciPy's C++ trusts its indices.
"""

import io
import pickletools
import re
from typing import NamedTuple

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


class _Named(NamedTuple):
    """A callable the file names, as its meaning; never the callable itself."""

    meaning: str
    kind: str | None


class _Node:
    """Something the file builds: a sparse matrix, an array or a dtype, with its arguments and state as plain data."""

    __slots__ = ("arguments", "kind", "state", "what")

    def __init__(self, what, kind=None, arguments=()):
        self.what, self.kind, self.arguments, self.state = what, kind, arguments, None


class _Refused(Exception):
    pass


class SparsePairs(NamedTuple):
    """The stored entries of a matrix: rows and columns int64 [n], values float64 [n], shape (rows, columns)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple


def read_sparse_pickle(path):
    """Equals `m = pickle.load(open(path, "rb")).tocoo(); (m.row, m.col, m.data, m.shape)` for SciPy COO and CSR.

    Admits what `pickle.dump` writes for coo_matrix, csr_matrix, coo_array and csr_array, any protocol, of SciPy 0.19 or
    newer, with integer, boolean or floating data. Returns SparsePairs, entries in the file's order.

    Raises InputError, naming the file, for any other callable (named, not executed), object arrays, damaged or
    truncated files, lengths that disagree, indices outside the shape, and values that are not finite.
    """
    content = read_bytes(path)
    return _read(path, lambda: _matrix(_interpret(content)))


def read_integer_lists(path):
    """Equals `[list(row) for row in np.load(path, allow_pickle=True)]` for a .npy file whose entries are lists, tuples
    or arrays of integers, read without unpickling. Raises InputError as read_sparse_pickle."""
    content = read_bytes(path)
    start = content.find(b"\n") + 1 if content[:6] == b"\x93NUMPY" else 0
    if b"O'" not in content[:start]:
        raise InputError(f"{path}: is not a .npy file of lists; write it with numpy.save")
    return _read(path, lambda: [_integers(row) for row in _objects(_interpret(content[start:]))])


def _read(path, read):
    """What `read` returns; a refusal and whatever a damaged file brings about become an InputError."""
    try:
        return read()
    except _Refused as refusal:
        raise InputError(f"{path}: {refusal}") from None
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        EOFError,
        UnicodeError,
    ) as error:
        raise InputError(
            f"{path}: is not a readable pickle ({type(error).__name__}: {shown(str(error))}); write it again with "
            "pickle.dump"
        ) from None


def _interpret(content):
    """The value a pickle stands for, as plain data and _Nodes."""
    stack, memo = [], {}

    def pop_to_mark():
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is _MARK:
                items = stack[at + 1 :]
                del stack[at:]
                return items
        raise _Refused("is a damaged pickle (no mark on the stack); write it again with pickle.dump")

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
            _a(list, stack[-1]).append(item)
        elif name == "APPENDS":
            items = pop_to_mark()
            _a(list, stack[-1]).extend(items)
        elif name == "DICT":
            stack.append(_fill({}, pop_to_mark()))
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            _fill(_a(dict, stack[-1]), items)
        elif name == "SETITEMS":
            items = pop_to_mark()
            _fill(_a(dict, stack[-1]), items)
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
            stack.append(_stand_in(called, _a(tuple, arguments), name))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Node) or stack[-1].state is not None:
                raise _Refused("sets state on something that is no matrix, array or dtype; it was not read")
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"uses the pickle operation {name}, which a SciPy matrix does not need; it was not read")
    raise _Refused("is a truncated pickle; copy or write it again")


def _look_up(module, attribute):
    if isinstance(module, str) and isinstance(attribute, str) and (module, attribute) in _MEANINGS:
        return _Named(*_MEANINGS[module, attribute])
    called = (
        f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "an unnamed callable"
    )
    raise _Refused(
        f"names {shown(called, 120)}, which is not allowed in a data file; nothing was executed. Only SciPy COO and "
        "CSR "
        "matrices of numbers are read from pickles"
    )


def _stand_in(called, arguments, operation):
    if not isinstance(called, _Named):
        raise _Refused(f"applies the pickle operation {operation} to something that is no callable; it was not read")
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
        return _a(str, arguments[0]).encode("latin1")
    if meaning == "bytes" and arguments == ():
        return b""
    raise _Refused("calls a NumPy or codec function in a way no matrix does; it was not read")


def _matrix(root):
    if not (isinstance(root, _Node) and root.what == "sparse"):
        raise _Refused(
            f"holds {_described(root)}, not a SciPy COO or CSR matrix; write it with pickle.dump(coo_matrix, file)"
        )
    state = root.state[0] if isinstance(root.state, tuple) and root.state else root.state
    state = _a(dict, state)
    shape = state.get("_shape", state.get("shape"))
    shape = tuple(_integer(side) for side in _values(_a(tuple, shape), 2))
    if not all(0 <= side <= _LARGEST_SIDE for side in shape):
        raise _Refused(f"declares the shape {shown(shape[0])} x {shown(shape[1])}; each side must lie in 0..2^31-1")
    values = _array(_entry(state, "data"), "data")
    if root.kind == "coo":
        rows, columns = _coordinates(state)
    else:
        columns = _indices(_entry(state, "indices"), "indices")
        rows = _rows_of(_indices(_entry(state, "indptr"), "indptr"), shape[0], len(columns))
    if not len(rows) == len(columns) == len(values):
        raise _Refused(
            f"holds {len(rows)} rows, {len(columns)} columns and {len(values)} values; a matrix has as many of each"
        )
    for which, index, side in (("row", rows, shape[0]), ("column", columns, shape[1])):
        outside = np.flatnonzero((index < 0) | (index >= side))
        if len(outside):
            raise _Refused(
                f"entry {outside[0]} has {which} {index[outside[0]]}, outside the shape {shape}; write the matrix again"
            )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise _Refused(f"entry {np.flatnonzero(~np.isfinite(values))[0]} is not finite; an interaction's value must be")
    return SparsePairs(rows, columns, values, shape)


def _objects(root):
    """The entries of an array of Python objects of one dimension."""
    if not (isinstance(root, _Node) and root.kind == "reconstruct"):
        raise _Refused(f"holds {_described(root)}, not an array of lists")
    _, shape, _, _, entries = _values(_a(tuple, root.state), 5)
    (length,) = _values(_a(tuple, shape), 1)
    return _values(_a(list, entries), _integer(length))


def _integers(row):
    """The integers of a list, a tuple or an array."""
    if isinstance(row, _Node) and row.kind != "scalar":
        return _indices(row, "an entry").tolist()
    if not isinstance(row, (list, tuple)):
        raise _Refused(f"holds {_described(row)} where a list of integers belongs")
    return [_integer(value) for value in row]


def _coordinates(state):
    if "coords" in state:
        rows, columns = _values(_a(tuple, state["coords"]), 2)
    else:
        rows, columns = _entry(state, "row"), _entry(state, "col")
    return _indices(rows, "row"), _indices(columns, "col")


def _rows_of(indptr, n_rows, n_entries):
    falls = (indptr[1:] < indptr[:-1]).any()  # their differences may wrap
    if len(indptr) != n_rows + 1 or indptr[0] != 0 or indptr[-1] != n_entries or falls:
        raise _Refused(f"indptr does not rise from 0 to {n_entries} in {n_rows + 1} steps; write the matrix again")
    return np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(indptr))


def _indices(node, name):
    array = _array(node, name)
    if array.dtype.kind not in "iu":
        raise _Refused(f"{name} holds {array.dtype} values; indices are integers")
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        raise _Refused(f"{name} holds {array.max()}, too large for an index")
    return array.astype(np.int64)


def _array(node, name):
    """The 1-D array that an array node stands for, read from its bytes."""
    if not (isinstance(node, _Node) and node.what == "array"):
        raise _Refused(f"{name} holds {_described(node)}, not an array")
    if node.kind == "frombuffer":
        content, dtype, shape, _ = _values(node.arguments, 4)
    elif node.kind == "reconstruct":
        _, shape, dtype, _, content = _values(_a(tuple, node.state), 5)
    else:
        raise _Refused(f"{name} holds a NumPy scalar, not an array")
    dtype = _dtype(dtype, name)
    content = content.encode("latin1") if isinstance(content, str) else _a(bytes, content)
    (length,) = _values(_a(tuple, shape), 1)
    if _integer(length) * dtype.itemsize != len(content):
        raise _Refused(
            f"{name} declares {shown(length)} values of {dtype} but holds {len(content)} bytes; copy the file again"
        )
    return np.frombuffer(content, dtype)


def _dtype(node, name):
    if not (isinstance(node, _Node) and node.what == "dtype" and node.arguments):
        raise _Refused(f"{name} has {_described(node)} for a dtype")
    code = node.arguments[0]
    if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
        raise _Refused(f"{name} has dtype {shown(code)}; only integers, booleans and floats of 2 to 8 bytes are read")
    order = "="
    if node.state is not None:
        order = _a(tuple, node.state)[1]
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"{name} has the byte order {shown(order)}; expected < or >")
    return np.dtype(code).newbyteorder(order)


def _entry(state, key):
    if key not in state:
        raise _Refused(f"the matrix has no {key}; write it again with pickle.dump")
    return state[key]


def _integer(value):
    if isinstance(value, _Node) and value.kind == "scalar" and len(value.arguments) == 2:
        dtype, content = _dtype(value.arguments[0], "a scalar"), value.arguments[1]
        content = content.encode("latin1") if isinstance(content, str) else _a(bytes, content)
        if dtype.kind in "iu" and len(content) == dtype.itemsize:
            return int(np.frombuffer(content, dtype)[0])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Refused(f"holds {_described(value)} where an integer belongs")


def _values(items, count):
    if len(items) != count:
        raise _Refused(
            f"is a damaged pickle ({len(items)} values where {count} belong); write it again with pickle.dump"
        )
    return items


def _fill(into, items):
    if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
        raise _Refused("is a damaged pickle (a dictionary key is no text); write it again with pickle.dump")
    into.update(zip(items[::2], items[1::2], strict=True))
    return into


def _a(kind, value):
    if not isinstance(value, kind):
        raise _Refused(f"holds {_described(value)} where {kind.__name__} belongs; write it again with pickle.dump")
    return value


def _described(value):
    if value is _MARK:
        return "a stack mark"
    if isinstance(value, _Node):
        return {"sparse": "a sparse matrix", "array": "a NumPy array", "dtype": "a dtype"}[value.what]
    return f"a {type(value).__name__}"
