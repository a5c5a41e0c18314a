"""Hostile pickles: nothing they hold is executed, crashes the process or costs memory beyond its own size."""

import pickle
import struct

import numpy as np
import pytest
import scipy.sparse as sp
from data_folders import WRITERS, one_line, small_dataset
from data_fuzz import BYTES, FUZZ, PROGRAMS, mutations, survives, within_64_mib
from hypothesis import given
from hypothesis import strategies as st
from mmssl_trainer.data import InputError, load
from mmssl_trainer.data.pickles import read_sparse_pickle


@pytest.fixture
def frugal():
    with within_64_mib():
        yield


def refused(path, *parts):
    with pytest.raises(InputError) as caught:
        read_sparse_pickle(path)
    one_line(caught, path, *parts)


# pickles that are what they should be


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [sp.coo_matrix, sp.csr_matrix, sp.coo_array, sp.csr_array])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "u1", "?"])
def test_matrices_of_every_kind_are_read(kind, protocol, dtype, tmp_path):
    dense = np.random.default_rng(0).integers(0, 2, (7, 5))
    dense[3], dense[:, 4] = 0, 0
    matrix = kind(dense.astype(dtype))
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(matrix, protocol))
    read = read_sparse_pickle(tmp_path / "m.pkl")
    assert read.shape == (7, 5)
    np.testing.assert_array_equal(sp.coo_array((read.values, (read.rows, read.columns)), read.shape).toarray(), dense)


def test_older_spellings_are_read(tmp_path):
    matrix = sp.coo_matrix(np.eye(3))
    state = {"_shape": (3, 3), "maxprint": 50, "row": matrix.row, "col": matrix.col, "data": matrix.data}
    content = pickle.dumps(_Called(("scipy.sparse._coo", "coo_matrix"), (), state), 2)
    for new, old in (
        (b"scipy.sparse._coo", b"scipy.sparse.coo"),
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
    ):
        assert new in content
        content = content.replace(new, old)
    (tmp_path / "m.pkl").write_bytes(content)
    assert read_sparse_pickle(tmp_path / "m.pkl").rows.tolist() == [0, 1, 2]


def test_empty_and_big_endian_matrices_are_read(tmp_path):
    for protocol in range(6):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(sp.coo_matrix((3, 4)), protocol))
        assert read_sparse_pickle(tmp_path / "m.pkl").shape == (3, 4)
        state = _state(data=np.array([1, 2, 3], ">f4"), row=np.array([2, 1, 0], ">i8"))
        (tmp_path / "m.pkl").write_bytes(
            pickle.dumps(_Called(("scipy.sparse._coo", "coo_matrix"), (), state), protocol)
        )
        read = read_sparse_pickle(tmp_path / "m.pkl")
        assert read.values.tolist() == [1, 2, 3] and read.rows.tolist() == [2, 1, 0]


# pickles that name something else


class _Called:
    """Pickles as a call of any (module, name) with arguments and, optionally, a state."""

    def __init__(self, name, arguments=(), state=None):
        self.name, self.arguments, self.state = name, arguments, state

    def __reduce_ex__(self, protocol):
        callable_ = _find(self.name)
        return (callable_, self.arguments) if self.state is None else (callable_, self.arguments, self.state)


def _find(name):
    module, attribute = name
    found = __import__(module, fromlist=["_"])
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


CALLS = [
    (b"os", b"system", ("touch {}",)),
    (b"posix", b"system", ("touch {}",)),
    (b"subprocess", b"check_call", (["touch", "{}"],)),
    (b"builtins", b"eval", ("open('{}', 'w')",)),
    (b"builtins", b"exec", ("open('{}', 'w')",)),
    (b"builtins", b"open", ("{}", "w")),
    (b"builtins", b"getattr", ((), "__class__")),
    (b"io", b"open", ("{}", "w")),
    (b"numpy.testing._private.utils", b"runstring", ("open('{}', 'w')", {})),
    (b"numpy.f2py.diagnose", b"run_command", ("touch {}",)),
    (b"numpy", b"load", ("{}", None, True)),
    (b"numpy", b"save", ("{}", 1)),
    (b"numpy", b"ndarray.tofile", ((), "{}")),
    (b"numpy", b"memmap", ("{}", "u1", "w+", 0, (3,))),
    (b"numpy.core.multiarray", b"fromfile", ("{}",)),
    (b"scipy.sparse", b"load_npz", ("{}",)),
    (b"scipy.sparse", b"save_npz", ("{}", ())),
    (b"scipy.sparse._coo", b"coo_matrix.__init__", ((), 3)),
    (b"scipy.sparse.os", b"system", ("touch {}",)),
    (b"torch.serialization", b"_load", ("{}",)),
]


def _program(module, name, arguments, stack_global):
    """A pickle that calls module.name(*arguments) whatever they are."""
    body = pickle.dumps(arguments, 2)[2:-1]
    if stack_global:
        return (
            b"\x80\x04"
            + b"".join(b"\x8c" + bytes([len(text)]) + text for text in (module, name))
            + b"\x93"
            + body
            + b"R."
        )
    return b"\x80\x02c" + module + b"\n" + name + b"\n" + body + b"R."


@pytest.mark.parametrize("stack_global", [False, True])
@pytest.mark.parametrize(
    ("module", "name", "arguments"), CALLS, ids=[f"{c[0].decode()}.{c[1].decode()}" for c in CALLS]
)
def test_any_other_callable_is_named_and_not_executed(module, name, arguments, stack_global, tmp_path):
    trace = tmp_path / "executed"
    arguments = tuple(a.format(trace) if isinstance(a, str) else a for a in arguments)
    if isinstance(arguments[0], list):
        arguments = ([part.format(trace) for part in arguments[0]],)
    (tmp_path / "m.pkl").write_bytes(_program(module, name, arguments, stack_global))
    refused(tmp_path / "m.pkl", f"{module.decode()}.{name.decode()}", "nothing was executed")
    assert not trace.exists()


def test_the_same_pickle_does_harm_to_a_reader_that_unpickles(tmp_path):
    trace = tmp_path / "executed"
    pickle.loads(_program(b"os", b"system", (f"touch {trace}",), False))
    assert trace.exists()


def test_a_callable_hidden_in_a_good_matrix_is_refused(tmp_path):
    trace = tmp_path / "executed"
    matrix = sp.coo_matrix(np.eye(3))
    matrix.extra = _Called(("os", "system"), (f"touch {trace}",))
    for protocol in (0, 2, 4, 5):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(matrix, protocol))
        refused(tmp_path / "m.pkl", "posix.system")
    assert not trace.exists()


OPERATIONS = {
    "INST": b"(S'x'\nios\nsystem\n.",
    "OBJ": b"(cscipy.sparse\ncoo_matrix\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Pfile\n.",
    "BINPERSID": b"\x80\x02Nh\x00Q."[:3] + b"Q.",
    "NEWOBJ_EX": b"\x80\x04cscipy.sparse\ncoo_matrix\n)}\x92.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "ADDITEMS": b"\x80\x04\x8f(K\x01\x90.",
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_no_matrix_needs_are_refused(operation, tmp_path):
    (tmp_path / "m.pkl").write_bytes(OPERATIONS[operation])
    refused(tmp_path / "m.pkl", "not executed" if operation != "ADDITEMS" else "EMPTY_SET")


# pickles that lie


def _state(**changed):
    state = {
        "_shape": (3, 4),
        "row": np.array([0, 1, 2], np.int32),
        "col": np.array([3, 0, 1], np.int32),
        "data": np.ones(3),
    }
    return {key: value for key, value in {**state, **changed}.items() if value is not None}


def _csr_state(**changed):
    state = {
        "_shape": (3, 4),
        "indices": np.array([3, 0, 1], np.int32),
        "indptr": np.array([0, 1, 2, 3], np.int32),
        "data": np.ones(3),
    }
    return {key: value for key, value in {**state, **changed}.items() if value is not None}


LIES = [
    (_state(row=np.array([0, 1, 3])), "entry 2 has row 3"),
    (_state(col=np.array([-1, 1, 3])), "entry 0 has column -1"),
    (_state(col=np.array([0, 1, 2**62])), "entry 2 has column 4611686018427387904"),
    (_state(col=np.array([0, 1, 2**63], np.uint64)), "too large"),
    (_state(row=np.array([0, 1])), "2 rows, 3 columns and 3 values"),
    (_state(data=np.ones(4)), "3 rows, 3 columns and 4 values"),
    (_state(data=np.array([1, np.nan, 1])), "entry 1 is not finite"),
    (_state(data=np.array([1, 1, -np.inf])), "entry 2 is not finite"),
    (_state(data=np.array([None, 1, 2], object)), "dtype 'O8'"),
    (_state(data=np.array(["a", "b", "c"])), "dtype 'U1'"),
    (_state(data=np.ones(3, complex)), "dtype 'c16'"),
    (_state(data=np.ones((3, 1))), "2 values instead of 1"),
    (_state(data=None), "no data"),
    (_state(data=[1.0, 1.0, 1.0]), "a list"),
    (_state(row=np.ones(3)), "float64"),
    (_state(row=None), "no row"),
    (_state(coords=(np.zeros(3, int),)), "1 values instead of 2"),
    (_state(_shape=(3, -4)), "3 x -4"),
    (_state(_shape=(3, 2**40)), "3 x 1099511627776"),
    (_state(_shape=(3, 2**9999)), "an integer of 10000 bits"),
    (_state(_shape=(3,)), "1 values instead of 2"),
    (_state(_shape=(3, "4")), "a str"),
    (_state(_shape=(3, True)), "a bool"),
    (_state(_shape=None), "a NoneType"),
    (_csr_state(indptr=np.array([0, 2, 1, 3])), "indptr must have"),
    (_csr_state(indptr=np.array([0, 1, 2, 2**40])), "indptr must have"),
    (_csr_state(indptr=np.array([1, 1, 2, 3])), "indptr must have"),
    (_csr_state(indptr=np.array([0, 2**63 - 1, -2, 3])), "indptr must have"),
    (_csr_state(indptr=np.array([0, 3])), "indptr must have"),
    (_csr_state(indptr=np.array([], int)), "indptr must have"),
    (_csr_state(indices=np.array([0, 4, 1])), "entry 1 has column 4"),
    (_csr_state(data=np.ones(2)), "3 rows, 3 columns and 2 values"),
]


@pytest.mark.parametrize(("state", "part"), LIES, ids=[lie[1] for lie in LIES])
def test_inconsistent_matrix_is_refused_before_scipy_sees_it(state, part, tmp_path, frugal):
    kind = ("scipy.sparse._csr", "csr_matrix") if "indptr" in state else ("scipy.sparse._coo", "coo_matrix")
    for protocol in (2, 4):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(_Called(kind, (), state), protocol))
        refused(tmp_path / "m.pkl", part)


def test_array_whose_bytes_are_not_its_shape_is_refused(tmp_path, frugal):
    content = pickle.dumps(sp.coo_matrix(np.eye(3)), 3)
    for old, new, part in (
        (b"K\x03\x85", b"K\x02\x85", "declares 2 values of float64 but contains 24 bytes"),
        (b"K\x03\x85", b"J\xff\xff\xff\x7f\x85", "declares 2147483647 values"),
        (b"K\x03\x85", b"J\xfd\xff\xff\xff\x85", "declares -3 values"),
        (b"f8", b"f4", "declares 3 values of float32 but contains 24 bytes"),
    ):
        assert old in content
        (tmp_path / "m.pkl").write_bytes(content.replace(old, new))
        refused(tmp_path / "m.pkl", part)


def _deep():
    return b"\x80\x02" + b")" + b"\x85" * 100_000 + b"."


def _deep_key():
    return b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s."


def _laughs():
    return (
        b"\x80\x02]q\x00"
        + b"("
        + b"h\x00" * 9
        + b"t"
        + b"".join(b"q" + bytes([at]) + b"(" + (b"h" + bytes([at])) * 9 + b"t" for at in range(1, 100))
        + b"."
    )


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "declared bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "declared bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "declared text": b"\x80\x02X" + struct.pack("<I", 2**31) + b"x.",
    "declared frame": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "decimal": b"L" + b"9" * 1_000_000 + b"L\n.",
    "long line": b"V" + b"x" * 1_000_000 + b"\n.",
    "deep tuple": _deep(),
    "deep key": _deep_key(),
    "billion laughs": _laughs(),
    "empty": b"",
    "no stack": b"0.",
    "memo unknown": b"h\x07.",
    "state on nothing": b"\x80\x02N}b.",
    "state on a callable": b"\x80\x02cscipy.sparse\ncoo_matrix\n}b.",
    "call of nothing": b"\x80\x02N)R.",
    "call of object": b"\x80\x02cbuiltins\nobject\n)R.",
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    "matrix without state": b"\x80\x02cscipy.sparse\ncoo_matrix\n)\x81.",
    "name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "mark as a state": b"\x80\x02cscipy.sparse\ncoo_matrix\n)\x81(b.",
    "text": b"user,item\n1,2\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_cost_nothing(bomb, tmp_path, frugal):
    (tmp_path / "m.pkl").write_bytes(BOMBS[bomb])
    refused(tmp_path / "m.pkl")


def test_truncated_matrix_is_refused_at_every_length(tmp_path):
    for protocol in (0, 5):
        content = pickle.dumps(sp.csr_matrix(np.eye(3)), protocol)
        for length in range(len(content)):
            (tmp_path / "m.pkl").write_bytes(content[:length])
            refused(tmp_path / "m.pkl")


# fuzzing

MATRICES = [
    pickle.dumps(sp.coo_matrix(np.eye(3)), 3),
    pickle.dumps(sp.coo_matrix(np.eye(3)), 0),
    pickle.dumps(sp.csr_matrix(np.eye(3)), 5),
]


@FUZZ
@given(content=BYTES | PROGRAMS | st.one_of([mutations(matrix) for matrix in MATRICES]))
def test_fuzzed_pickles_give_a_sound_matrix_or_an_error(content, tmp_path):
    found = survives(read_sparse_pickle, tmp_path / "m.pkl", content)
    if found is not None:
        assert len(found.rows) == len(found.columns) == len(found.values) and np.isfinite(found.values).all()
        for index, side in zip((found.rows, found.columns), found.shape, strict=True):
            assert not len(index) or 0 <= index.min() <= index.max() < side


def test_layouts_with_a_pickle_refuse_a_hostile_one(tmp_path):
    for layout, name in (("diffmm", "trnMat.pkl"), ("hkuds", "train_mat")):
        folder = tmp_path / layout
        folder.mkdir()
        WRITERS[layout](small_dataset(), folder)
        (folder / name).write_bytes(_program(b"os", b"system", (f"touch {tmp_path}/executed",), False))
        with pytest.raises(InputError) as caught:
            load(folder)
        one_line(caught, name, "os.system")
    assert not (tmp_path / "executed").exists()
