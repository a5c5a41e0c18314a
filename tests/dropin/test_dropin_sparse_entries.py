"""mmssl_fast.dropin.sparse replaces names of torch: where, for whom, and that torch is afterwards what it was."""

import pickle
import sys
import threading
import types

import pytest
import torch
import torch.nn.functional as F
from dropin_clients.sparse_matrices import dense, matrix
from threads_at_once import in_threads
from tolerances import assert_close
from torch import Tensor

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse.entries import entries
from mmssl_fast.dropin.sparse.products import READERS

pytestmark = pytest.mark.usefixtures("fresh", "small_ones_pay")

NAMESPACES = (torch, torch.sparse, torch.linalg, F, torch.functional, Tensor)


def contents():
    return [dict(vars(namespace)) for namespace in NAMESPACES]


def differing(before, after):
    return sorted(
        name for old, new in zip(before, after, strict=True) for name in old | new if old.get(name) is not new.get(name)
    )


@pytest.fixture
def module(monkeypatch):
    """``module(name=value, …)`` is imported."""

    def make(**names):
        made = types.ModuleType("client_of_torch")
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        return made

    return make


def test_torch_is_what_it_was_afterwards():
    before, methods = contents(), [func for func in READERS if hasattr(func, "__objclass__")]
    with sparse.accelerated():
        inside = contents()
    names = set(differing(before, inside))
    assert {"mm", "spmm", "dsmm", "matmul", "__matmul__", "linear", "addmm", "chain_matmul"} <= names
    assert not names & {"add", "__rmatmul__", "Tensor", "cat", "embedding"}
    assert differing(before, contents()) == []
    assert len(methods) > 5 and all(getattr(Tensor, func.__name__) is func for func in methods)
    with pytest.raises(ZeroDivisionError), sparse.accelerated():
        1 / 0  # noqa: B018
    assert differing(before, contents()) == []


def test_every_known_function_has_a_wrapper():
    inherited = {Tensor.__rmatmul__}  # calls torch.matmul
    with sparse.accelerated():
        standing = {id(value) for namespace in contents() for value in namespace.values()}
        assert not [f for f in READERS if id(f) in standing and f not in inherited]
        assert all(id(entries._pairs[id(f)][1]) in standing for f in READERS if f not in inherited)


def test_nested_contexts_end_with_the_outermost(taken):
    a, x = matrix(), dense(11, 3)
    before = contents()
    with sparse.accelerated():
        with sparse.accelerated(always=True):
            torch.mm(a, x)
        torch.mm(a, x)
        sparse.enable()
    torch.mm(a, x)
    sparse.disable()
    assert len(taken) == 3 and differing(before, contents()) == []
    torch.mm(a, x)
    assert len(taken) == 3


def test_always_holds_in_what_is_nested(monkeypatch, taken):
    monkeypatch.setattr("mmssl_fast.dropin.sparse.cost.gain", lambda *args, **kwargs: -1)
    with sparse.accelerated(always=True), sparse.accelerated():
        torch.mm(matrix(), dense(11, 3))
    assert len(taken) == 1


def test_other_threads_have_torchs_results(taken):
    a, x, before = matrix(), dense(11, 3), contents()
    steps = [threading.Event() for _ in range(3)]
    counts = []

    def other():
        steps[0].wait()
        torch.mm(a, x)
        counts.append(len(taken))
        with sparse.accelerated():
            steps[1].set()
            steps[2].wait()
            torch.mm(a, x)  # the first thread has left
            counts.append(len(taken))

    thread = threading.Thread(target=other)
    thread.start()
    with sparse.accelerated():
        steps[0].set()
        steps[1].wait()
    torch.mm(a, x)
    assert not taken and differing(before, contents()), "the other thread is inside"
    steps[2].set()
    thread.join()
    assert counts == [0, 1] and differing(before, contents()) == []


def test_many_threads_enter_and_leave():
    before, a, x = contents(), matrix(), dense(11, 3)
    truth, wrong = a.to_dense() @ x, []

    def work():
        for _ in range(200):
            with sparse.accelerated():
                if not torch.allclose(torch.mm(a, x), truth):
                    wrong.append(1)

    in_threads(work)
    assert not wrong and differing(before, contents()) == [] and entries._users == 0


def test_names_that_modules_have_imported(module, taken):
    a, x = matrix(), dense(11, 3)
    client = module(mm=torch.sparse.mm, product=Tensor.matmul, other=torch.add)
    with sparse.accelerated():
        client.mm(a, x)
        client.product(a, x)
    assert len(taken) == 2
    assert client.mm is torch.sparse.mm and client.product is Tensor.matmul and client.other is torch.add
    client.mm(a, x)
    assert len(taken) == 2
    with sparse.accelerated():
        client.mm(a, x)
    assert len(taken) == 3


def test_names_imported_inside_are_torchs_afterwards(module, taken):
    original = torch.sparse.mm
    with sparse.accelerated():
        client = module(mm=torch.sparse.mm)
        client.mm(matrix(), dense(11, 3))
    assert len(taken) == 1 and client.mm is original


def test_what_others_put_there_stays(monkeypatch, taken):
    a, x, calls = matrix(), dense(11, 3), []
    original = torch.mm
    with monkeypatch.context() as patch:
        patch.setattr(torch, "mm", lambda *args: calls.append(1) or original(*args))
        theirs = torch.mm
        with sparse.accelerated():
            assert torch.mm is theirs
            torch.mm(a, x)
    with sparse.accelerated():
        ours = torch.mm
        with monkeypatch.context() as patch:
            patch.setattr(torch, "mm", lambda *args: calls.append(1) or ours(*args))
            torch.mm(a, x)
            theirs = torch.mm
            assert len(taken) == 1 and len(calls) == 2
        torch.mm = theirs
    assert torch.mm is theirs
    try:
        torch.mm(a, x)
    finally:
        torch.mm = original
    assert len(taken) == 1 and len(calls) == 3


class Recorder(Tensor):
    """Keeps the functions that torch hands to it."""

    seen: list

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


class Strict(Tensor):
    """Knows one function, as classes that keep a table of their implementations do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return "product" if func in KNOWN else NotImplemented


class RecordingMode(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


KNOWN = {Tensor.matmul}
CALLS = {
    "mm": lambda a, x: torch.mm(a, x),
    "keyword": lambda a, x: torch.mm(a, mat2=x),
    "matmul": lambda a, x: torch.matmul(a, x),
    "operator": lambda a, x: a @ x,
    "method": lambda a, x: a.mm(x),
    "Tensor.matmul": lambda a, x: a.matmul(other=x),
    "sparse.mm": lambda a, x: torch.sparse.mm(a, x),
    "linear": lambda a, x: F.linear(x.detach().t(), a.detach()),
    "rmatmul": lambda a, x: a.__rmatmul__(x.detach().t()[:, :1] @ torch.ones(1, 17).double()),
    "linalg": lambda a, x: torch.linalg.matmul(a, x),
    "multi_dot": lambda a, x: torch.linalg.multi_dot([a, x]),
    "addmm_": lambda a, x: torch.zeros(17, 3).double().addmm_(a, x),
}


@pytest.mark.parametrize("sort", ["dense", "sparse"])
@pytest.mark.parametrize("call", CALLS)
def test_a_subclass_is_handed_torchs_functions(call, sort, taken):
    a = matrix().to_dense() if sort == "dense" else matrix()
    x, records = dense(11, 3).as_subclass(Recorder), []
    for context in (torch.enable_grad, sparse.accelerated):
        Recorder.seen = []
        with context():
            try:
                result = CALLS[call](a, x)
            except (RuntimeError, TypeError):
                result = None  # torch has no such product
        records.append((Recorder.seen, type(result), None if result is None else result.as_subclass(Tensor).to_dense()))
    assert records[0][0] == records[1][0] and records[0][1] is records[1][1]
    assert all(a is b for a, b in zip(records[0][0], records[1][0], strict=True)) and not taken
    if records[0][2] is not None:
        assert torch.equal(records[0][2], records[1][2])


def test_a_subclass_that_knows_one_function():
    x = dense(3, 3).as_subclass(Strict)
    with sparse.accelerated():
        assert x @ x == "product" and x.matmul(x) == "product" and matrix() @ x == "product"
        with pytest.raises(TypeError, match="Multiple dispatch failed"):
            torch.mm(x, x)
        with pytest.raises(TypeError, match="Multiple dispatch failed"):
            x.mm(x)


def test_a_subclass_without_a_torch_function_is_taken(taken):
    class Plain(Tensor):
        pass

    x = dense(11, 3).as_subclass(Plain)
    with sparse.accelerated():
        y = torch.mm(matrix(), x)
    assert len(taken) == 1 and type(y) is Plain


@pytest.mark.parametrize("call", CALLS)
def test_modes_of_others_see_torchs_functions_of_dense_products(call):
    a, x, seen = matrix().to_dense(), dense(11, 3), []
    for context in (torch.enable_grad, sparse.accelerated):
        with context(), RecordingMode() as mode:
            CALLS[call](a, x)
        seen.append(mode.seen)
    assert [f for f in seen[1] if "layout" not in str(f)] == seen[0]


def test_sparse_products_are_taken_under_a_mode(taken):
    a, x = matrix(), dense(11, 3).requires_grad_()
    with sparse.accelerated(), torch.device("cpu"):
        y = a @ x
        y.sum().backward()
        assert_close(F.linear(x.t(), a), (a.to_dense() @ x).t())
    assert len(taken) == 2
    assert_close(x.grad, a.to_dense().t() @ torch.ones(17, 3).double())


@pytest.mark.parametrize("path", ["mm", "matmul", "sparse.mm", "linalg.matmul", "nn.functional.linear", "Tensor.mm"])
def test_functions_are_pickled_by_name(path):
    def find():
        found = torch
        for part in path.split("."):
            found = getattr(found, part)
        return found

    original = find()
    with sparse.accelerated():
        assert find() is not original and find().__name__ == original.__name__ and find().__doc__ == original.__doc__
        stored = pickle.dumps(find())
        assert pickle.loads(stored) is find()
        assert pickle.loads(pickle.dumps(original)) in (original, find())
    assert pickle.loads(stored) is original


def test_small_matrices_that_are_not_supported_are_still_said(monkeypatch, taken):
    monkeypatch.setattr("mmssl_fast.dropin.sparse.cost.gain", lambda *args, **kwargs: -1)
    x = dense(11, 3)
    with sparse.accelerated():
        with pytest.warns(UserWarning, match="a matrix that requires grad is left to torch"):
            torch.mm(matrix().requires_grad_(), x)
        with pytest.warns(UserWarning, match="a matrix of torch.int64 is left to torch"):
            torch.mm(matrix().long(), x.long())
        torch.mm(matrix(), x)
    assert sum(sparse.report().left.values()) == 3 and not taken
