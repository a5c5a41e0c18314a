"""What the tests of hostile files share: Hypothesis settings, damaged files, files made up, a watch on memory."""

import io
import json
import os
import pickle
import struct
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from mmssl_trainer.data import InputError
from pyarrow import parquet

FUZZ = settings(
    max_examples=int(os.environ.get("MMSSL_FAST_FUZZ", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BYTES = st.binary(max_size=400)


@contextmanager
def within_64_mib():
    """Fails when Python and NumPy held more than 64 MiB at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def survives(read, path, content):
    """Whatever the content, the reader returns or raises InputError."""
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        assert str(path.name) in str(error) and "\n" not in str(error)
        return None


# valid files, damaged

NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
PIECES = [
    b"\0",
    b"\n",
    b"\r",
    b"\t",
    b",",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"}",
    b"]",
    b":",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"0x1",
    b"9" * 25,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"PAR1",
    b"PK\x03\x04",
    b"\x93NUMPY",
    b"../",
    b"user",
    b"item",
    b"split",
]


EDITS = ("byte", "bit", "number", "piece", "cut", "again", "moved", "end")


def _edited(content, edit):
    """One edit of a bytearray, in place, as six bytes say it."""
    kind, length, value = EDITS[edit[0] % len(EDITS)], edit[1] % 41, edit[2]
    at = int.from_bytes(edit[3:], "big") % (len(content) + 1)
    if kind == "byte":
        content[at : at + 1] = bytes([value % 256])
    elif kind == "bit" and at < len(content):
        content[at] ^= 1 << value % 8
    elif kind == "number":
        width = 1 << length % 4
        number = NUMBERS[value % len(NUMBERS)] % (1 << 8 * width)
        content[at : at + width] = number.to_bytes(width, "little" if value & 64 else "big")
    elif kind == "piece":
        content[at : at + (length if value & 64 else 0)] = PIECES[value % len(PIECES)]
    elif kind == "cut":
        del content[at : at + length]
    elif kind == "again":
        content[at:at] = content[at : at + length] * (1 + value % 8)
    elif kind == "moved":
        taken = content[at : at + length]
        del content[at : at + length]
        to = value * 37 % (len(content) + 1)
        content[to:to] = taken
    elif kind == "end":
        del content[at:]


def mutations(content):
    """The content after up to eight edits: bytes, bits, words and tokens put in, stretches cut, moved and repeated."""

    def change(edits):
        out = bytearray(content)
        for at in range(0, len(edits) - 5, 6):
            _edited(out, edits[at : at + 6])
        return bytes(out)

    return st.binary(max_size=6 * 8).map(change)


# files made up

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.integers(-2, 9).map(str), inner, max_size=4)
    ),
    max_leaves=12,
)
JSON_FILES = JSON_VALUES.map(lambda value: json.dumps(value).encode())

IDS = st.sampled_from(["0", "1", "2", "7", "007", "-1", "a", "", " ", '"', '""', "é", "1.0", "1e3", "9" * 19, "NULL"])
CELLS = IDS | st.text(max_size=4) | st.sampled_from(["train", "val", "test", "0", "1", "2"])


def tables(*columns, separator=","):
    """Text tables with these columns, in any order, some missing or twice, and cells of any kind."""

    def written(header, rows, end):
        lines = [separator.join(header), *(separator.join(row) for row in rows)]
        return end.join(lines).encode("utf-8", "replace")

    names = st.permutations(columns) | st.lists(st.sampled_from(columns), max_size=4)
    rows = st.lists(st.lists(CELLS, min_size=1, max_size=4) | st.tuples(IDS, IDS, CELLS), max_size=8)
    return st.builds(written, names, rows, st.sampled_from(["\n", "\r\n", "\r"]))


COLUMNS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), min_size=3, max_size=3).map(pa.array),
    st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3).map(lambda v: pa.array(v, pa.uint64())),
    st.lists(st.none() | CELLS, min_size=3, max_size=3).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.none() | CELLS, min_size=3, max_size=3).map(lambda v: pa.array(v, pa.string()).dictionary_encode()),
    st.lists(CELLS, min_size=3, max_size=3).map(lambda v: pa.array(v, pa.large_string())),
    st.lists(st.none() | st.floats(), min_size=3, max_size=3).map(lambda v: pa.array(v, pa.float64())),
    st.sampled_from(
        [
            pa.nulls(3),
            pa.array([True, False, None]),
            pa.array([[1], [], None]),
            pa.array([{"a": 1}] * 3),
            pa.array([b"x"] * 3),
            pa.array([0, 1, 2], pa.timestamp("ns")),
            pa.array([1, 2, 3], pa.date32()),
            pa.array([7, 8, 9], pa.decimal128(9, 2)),
        ]
    ),
)


def parquets(*columns):
    """Parquet files whose columns are of any type, in any compression."""

    def written(values, compression, dictionary, version):
        file = io.BytesIO()
        table = pa.table(dict(zip(columns, values, strict=False)))
        parquet.write_table(table, file, compression=compression, use_dictionary=dictionary, data_page_version=version)
        return file.getvalue()

    values = st.lists(COLUMNS, min_size=1, max_size=len(columns))
    return st.builds(
        written, values, st.sampled_from(["none", "zstd", "snappy"]), st.booleans(), st.sampled_from(["1.0", "2.0"])
    )


def npy(header, content=b"", version=1):
    """A .npy file of that header, whatever it says."""
    header = header.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + content


def npy_header(descr="'<f4'", fortran="False", shape="(3, 2)"):
    """The header's text."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def _npy_of(descr, fortran, sides, held, version):
    shape = "(" + ", ".join(map(str, sides)) + ("," if len(sides) == 1 else "") + ")"
    return npy(npy_header(f"'{descr}'", fortran, shape), bytes(held), version)


NPYS = st.builds(
    _npy_of,
    st.sampled_from(["<f4", ">f4", "<f2", "<f8", "|i1", "<u8", "|b1", "|O", "<c8", "|S3", "<U1", "<M8[s]"]),
    st.sampled_from(["True", "False", "1"]),
    st.lists(st.sampled_from([0, 1, 2, 5, 30, 2**31, 2**62]), max_size=3),
    st.sampled_from([0, 1, 16, 60, 240, 600]),
    st.sampled_from([1, 2, 3, 4]),
)

OPERATIONS = [
    *(b"(", b")", b"]", b"}", b"N", b"K\x01", b"t", b"\x85", b"\x86", b"R", b"b", b"\x81", b"a", b"e", b"s", b"u"),
    *(b"d", b"l", b"0", b"1", b"2", b"q\x00", b"h\x00", b"\x94", b"\x93", b"C\x08" + bytes(8)),
    *(b"cscipy.sparse\ncoo_matrix\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cos\nsystem\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n"),
    *(b"X" + struct.pack("<I", len(text)) + text for text in (b"data", b"row", b"col", b"_shape", b"f8", b"i4", b"<")),
]
PROGRAMS = st.lists(st.sampled_from(OPERATIONS), max_size=40).map(lambda parts: b"\x80\x04" + b"".join(parts) + b".")


def _pickled(kind, dtype, shape, entries, protocol):
    places = [(row % max(shape[0], 1), column % max(shape[1], 1)) for row, column in entries if all(shape)]
    rows, columns = np.array(places, np.int32).reshape(-1, 2).T
    matrix = sp.coo_matrix((np.ones(len(rows)).astype(dtype), (rows, columns)), shape)
    return pickle.dumps(kind(matrix), protocol)


MATRICES = st.builds(
    _pickled,
    st.sampled_from([sp.coo_matrix, sp.csr_matrix, sp.coo_array, sp.csr_array, sp.csc_matrix]),
    st.sampled_from(["f8", "f4", "i8", "u1", "?", "c16"]),
    st.tuples(st.sampled_from([0, 1, 40, 999]), st.sampled_from([0, 1, 30, 2**20])),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=6),
    st.integers(0, 5),
)
PICKLES = PROGRAMS | MATRICES | MATRICES.flatmap(mutations)
