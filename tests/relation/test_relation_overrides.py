"""Every function that torch lets other classes override gives on RelationRows what it gives on the matrix, or raises a
TypeError that names `.dense()`."""

import inspect
import itertools
import operator
import warnings

import numpy as np
import pytest
import torch
from relation_subjects import N_ITEMS, N_ROWS, SUBJECTS, H, assert_same, block, column, plain
from torch import Tensor
from torch.overrides import get_overridable_functions, get_testing_overrides

from mmssl_fast.relation import RelationGradient, RelationRows, torch_functions  # noqa: F401  registers the functions
from mmssl_fast.relation.registry import _HANDLERS

COMBINATIONS = 40  # argument lists tried on the matrix, a function
SUCCESSES = 2  # argument lists compared, a function
OPTIONS = (0, 1, -1, None, True, (1,), (0, 1), "fro", 0.5, 2)


class Slot:
    """Where the relation object goes, or its matrix."""


def candidates():
    """Makers of arguments; Slot stands for the object itself."""
    return [
        Slot,
        block,
        column,
        lambda: torch.randn(H, N_ITEMS, dtype=torch.float64),
        lambda: 1,
        lambda: 0,
        lambda: 2.0,
        lambda: (Slot, block()),
        lambda: [Slot, Slot],
        lambda: torch.randn(N_ITEMS, dtype=torch.float64),
        lambda: torch.randn(N_ITEMS, H, dtype=torch.float64),
        lambda: torch.tensor([0, 2]),
        lambda: (N_ROWS, N_ITEMS),
        lambda: block() > 0,
        lambda: torch.tensor(0.5, dtype=torch.float64),
        lambda: torch.float64,
        lambda: True,
    ]


def filled(values, x):
    """The arguments with x in every slot."""
    if isinstance(values, tuple | list):
        return type(values)(filled(value, x) for value in values)
    return x if values is Slot else values


def has_slot(values):
    return any(v is Slot or (isinstance(v, tuple | list) and has_slot(v)) for v in values)


def call(function, args, **options):
    """A method is looked up on its first argument, as code does."""
    name = getattr(function, "__name__", "")
    if inspect.ismethoddescriptor(function) or (name.startswith("__") and hasattr(Tensor, name)):
        if isinstance(args[0], tuple | list):
            raise TypeError("no tensor, no method; .dense() does not come into it")
        return getattr(args[0], name)(*args[1:], **options)
    return function(*args, **options)


def equal_or_refused(function, values, x, matrix, what, options=None):
    """Whether x gave the answer of its matrix; None where it refuses, False where the matrix has none either."""
    options = options or {}
    try:
        truth = call(function, filled(values, matrix.clone()), **options)
    except Exception:
        return False
    if truth is NotImplemented:
        return False
    try:
        found = call(function, filled(values, x), **options)
    except TypeError as error:
        assert ".dense()" in str(error), f"{what}: {error}"
        return None
    if found is NotImplemented:
        return None
    assert_same(found, truth, what)
    return True


def test_the_walk_leaves_out_nothing_unsaid():
    """A function of a new torch that cannot be walked is either named here or fails here."""
    stand_ins, walked = get_testing_overrides(), {function for _, function, _ in walk()}
    left = {}
    for space, functions in get_overridable_functions().items():
        for function in functions:
            name = getattr(function, "__name__", str(function))
            private = name.startswith("_") and not name.startswith("__")
            if function not in walked and not private and name not in SKIPPED and not replaced(name):
                left[name] = getattr(space, "__name__", str(space)), function in stand_ins
    distributed = {name for name, (space, _) in left.items() if "distributed" in space}
    # torch.autocast is a class, whose stand-in torch does not list; docs/dropin.md says what rows do inside it.
    assert {name: said for name, said in left.items() if name not in distributed} == {"autocast": ("torch", False)}
    assert len(walked) > 1000


def replaced(name):
    """Whether another package has put a function of its own in the place of torch's. torch then lists no stand-in for
    the method either. PyTorch Geometric 2.8 does so with select and index_select."""
    module = getattr(getattr(torch, name, None), "__module__", None) or "torch"
    return module.partition(".")[0] != "torch"


def walk():
    """(name, function, its stand-in with the same signature) of every public function that can be overridden."""
    stand_ins = get_testing_overrides()
    for space, functions in get_overridable_functions().items():
        for function in functions:
            name = getattr(function, "__name__", str(function))
            public = not name.startswith("_") or name.startswith("__")
            space_name = getattr(space, "__name__", str(space))
            if function in stand_ins and public and "distributed" not in space_name and name not in SKIPPED:
                yield name, function, inspect.signature(stand_ins[function])


# Object protocol rather than arithmetic, or without an argument that could be rows.
SKIPPED = {
    "__get__",
    "__set__",
    "__delete__",
    "__dir__",
    "__hash__",
    "__repr__",
    "__format__",
    "__sizeof__",
    "__len__",
    "__reduce_ex__",
    "__deepcopy__",
    "__setstate__",
    "__dlpack__",
    "__dlpack_device__",
    "size",
    "dim",
    "numel",
    "requires_grad_",
    "detach",
    "to",
    "einsum",
    "cpu",
    "cuda",
    "clone",
    "share_memory_",
    "pin_memory",
    "sym_sum",  # of symbolic integers; torch 2.11 refuses what is no sequence before it asks the argument
}
# What relation objects allow to change them; for these an object is made anew for each call.
IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__"}
GRADIENT_ONLY = {torch.square, torch.pow, torch.sum, torch.flatten, torch.reshape}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_function_gives_the_matrix_answer_or_refuses(subject):
    make, equal, called, faults = SUBJECTS[subject], set(), 0, {}
    x = make()
    matrix, arguments = plain(x).clone(), candidates()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function, signature in walk():
            parameters = signature.parameters.values()
            required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.KEYWORD_ONLY)]
            optional = [p.name for p in parameters if p.default is not p.empty and p.name != "out"]
            operand = make if name in IN_PLACE else lambda: x
            successes, handled = 0, function in _HANDLERS and subject == "rows"
            limit, enough = (300, 300) if handled else (COMBINATIONS, SUCCESSES)
            for makers in itertools.islice(itertools.product(arguments, repeat=len(required)), limit):
                values = [maker if maker is Slot else maker() for maker in makers]
                if not has_slot(values) or successes == enough:
                    continue
                called += 1
                try:
                    answered = equal_or_refused(function, values, operand(), matrix, name)
                except Exception as error:
                    faults[name] = str(error)
                    continue
                successes += answered is not False
                if answered:
                    equal.add(function)
                    for option, value in itertools.product(optional, OPTIONS):
                        try:
                            equal_or_refused(function, values, operand(), matrix, name, {option: value})
                        except Exception as error:
                            faults[f"{name}, {option}={value}"] = str(error)
    assert not faults
    assert called > 3000
    assert torch.equal(plain(x), matrix), "a call changed its argument in place"
    if subject == "rows":
        forgotten = {f for f in _HANDLERS if f not in equal} - GRADIENT_ONLY - {torch.autograd.grad}
        by_rows_only = {"norm", "linalg_norm", "linalg_vector_norm"}  # with dim=1 alone: test_norms_and_topk
        assert not {f.__name__ for f in forgotten} - SKIPPED - by_rows_only


OPERATORS = (
    "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift eq ne lt le gt ge iadd isub imul itruediv"
)


@pytest.mark.filterwarnings("ignore")  # of NumPy and torch about each other's arrays
@pytest.mark.parametrize("name", OPERATORS.split())
@pytest.mark.parametrize("subject", SUBJECTS)
def test_operators_with_either_operand_give_the_matrix_answer_or_refuse(name, subject):
    function, x = getattr(operator, name), SUBJECTS[subject]()
    matrix = plain(x).clone()
    operand = SUBJECTS[subject] if f"__{name}__" in IN_PLACE else lambda: x
    others = [
        2,
        0,
        0.5,
        True,
        2j,
        np.float32(0.5),
        np.int64(3),
        None,
        operand,
        block,
        column,
        lambda: column().float(),
        lambda: column().long(),
        lambda: torch.ones(N_ROWS, N_ITEMS, dtype=torch.int64),
        lambda: block().numpy(),
        lambda: column().numpy(),
        lambda: torch.ones(1, 1),
        lambda: torch.ones(1, 1, 1),
        lambda: torch.ones(N_ITEMS),
        lambda: torch.tensor(2),
        lambda: torch.ones(N_ITEMS, 2, dtype=torch.float64),
        lambda: torch.ones(1, N_ITEMS),
        lambda: column().expand_as(x),
        lambda: column().to(torch.complex128),
    ]
    for other, swapped in itertools.product(others, (False, True)):

        def pair(x, other=other, swapped=swapped):
            y = other() if callable(other) else other
            return (y, x) if swapped else (x, y)

        def dense(x, other=other, swapped=swapped):
            return tuple(map(plain, pair(x, other, swapped)))

        try:
            truth = function(*dense(matrix.clone()))
        except Exception:
            truth = None
        try:
            found = function(*pair(operand()))
        except TypeError as error:
            assert truth is None or isinstance(truth, bool) or ".dense()" in str(error), f"{name} {other}: {error}"
            continue
        except Exception:
            assert truth is None, f"{name} {other}"
            continue
        if truth is not None:
            assert_same(found, truth, f"{name} {other} {swapped}")
    assert torch.equal(plain(x), matrix), "an operator changed its operand in place"
