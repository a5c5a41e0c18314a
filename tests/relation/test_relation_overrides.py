"""Every function that torch lets other classes override gives on RelationRows what it gives on the matrix, or raises a
TypeError that names `.dense()`."""

import inspect
import itertools
import operator
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from relation_cases import catalogue, factors, weights
from torch import Tensor
from torch.overrides import get_overridable_functions, get_testing_overrides

from mmssl_fast.relation import RelationGradient, RelationRows, torch_functions  # noqa: F401  registers the functions
from mmssl_fast.relation.registry import _HANDLERS

N_ROWS, N_ITEMS, H = 6, 9, 4
COMBINATIONS = 40  # argument lists tried on the matrix, a function
SUCCESSES = 2  # argument lists compared, a function


def rows_of(grad=False):
    u, v = factors(N_ROWS, N_ITEMS, 3)
    rows = RelationRows.generated(u, v, "dot", catalogue(N_ROWS, N_ITEMS).rows(torch.arange(N_ROWS)))
    rows = torch.cat((rows[:2], 0.5 * rows[2:] + block()[2:]))
    return rows if grad else rows.detach()


def gradient():
    x = rows_of().requires_grad_()
    (g,) = torch.autograd.grad(F.linear(x, weights(H, N_ITEMS).detach()).square().sum(), x)
    return g


SUBJECTS = {"rows": rows_of, "gradient": gradient, "square": lambda: gradient() ** 2}


def block():
    return torch.randn(N_ROWS, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def column():
    return torch.linspace(0.5, 2, N_ROWS, dtype=torch.float64)[:, None]


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


def plain(result):
    if isinstance(result, RelationRows | RelationGradient) or type(result).__name__ == "RelationGradientSquare":
        return result.dense()
    if isinstance(result, torch.return_types.topk):  # equal entries come in any order from torch
        return (result.values,)
    return tuple(map(plain, result)) if isinstance(result, tuple | list) else result


def assert_same(found, truth, what):
    found, truth = plain(found), plain(truth)
    if isinstance(truth, tuple):
        assert isinstance(found, tuple) and len(found) == len(truth), what
        for a, b in zip(found, truth, strict=True):
            assert_same(a, b, what)
    elif isinstance(truth, Tensor):
        assert isinstance(found, Tensor) and found.shape == truth.shape and found.dtype == truth.dtype, what
        tolerance = 1e-5 if truth.dtype == torch.float32 else 1e-9
        assert torch.allclose(found, truth, rtol=tolerance, atol=tolerance, equal_nan=True), what
    else:
        assert found == truth, what


def equal_or_refused(function, values, make, matrix, what, options=None):
    """Whether rows gave the answer of their matrix; None where they refuse, False where the matrix has none either."""
    options = options or {}
    try:
        truth = call(function, filled(values, matrix.clone()), **options)
    except Exception:
        return False
    if truth is NotImplemented:
        return False
    try:
        found = call(function, filled(values, make()), **options)
    except TypeError as error:
        assert ".dense()" in str(error), f"{what}: {error}"
        return None
    if found is NotImplemented:
        return None
    assert_same(found, truth, what)
    return True


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
}
GRADIENT_ONLY = {torch.square, torch.pow, torch.sum, torch.flatten, torch.reshape}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_function_gives_the_matrix_answer_or_refuses(subject):
    make, equal, called, faults = SUBJECTS[subject], set(), 0, {}
    matrix, arguments = plain(make()), candidates()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function, signature in walk():
            parameters = signature.parameters.values()
            required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.KEYWORD_ONLY)]
            optional = [p.name for p in parameters if p.default is not p.empty and p.name != "out"]
            successes, handled = 0, function in _HANDLERS and subject == "rows"
            limit, enough = (300, 300) if handled else (COMBINATIONS, SUCCESSES)
            for makers in itertools.islice(itertools.product(arguments, repeat=len(required)), limit):
                values = [maker if maker is Slot else maker() for maker in makers]
                if not has_slot(values) or successes == enough:
                    continue
                called += 1
                try:
                    answered = equal_or_refused(function, values, make, matrix, name)
                except Exception as error:
                    faults[name] = str(error)
                    continue
                successes += answered is not False
                if answered:
                    equal.add(function)
                    for option, value in itertools.product(optional, OPTIONS):
                        try:
                            equal_or_refused(function, values, make, matrix, name, {option: value})
                        except Exception as error:
                            faults[f"{name}, {option}={value}"] = str(error)
    assert not faults
    assert called > 3000
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
    function, make = getattr(operator, name), SUBJECTS[subject]
    others = [
        2,
        0,
        0.5,
        True,
        2j,
        np.float32(0.5),
        np.int64(3),
        None,
        make,
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
        lambda: column().expand_as(make()),
        lambda: column().to(torch.complex128),
    ]
    for other, swapped in itertools.product(others, (False, True)):

        def pair(x, other=other, swapped=swapped):
            y = other() if callable(other) else other
            return (y, x) if swapped else (x, y)

        def dense(x, other=other, swapped=swapped):
            return tuple(map(plain, pair(x, other, swapped)))

        try:
            truth = function(*dense(plain(make())))
        except Exception:
            truth = None
        try:
            found = function(*pair(make()))
        except TypeError as error:
            assert truth is None or isinstance(truth, bool) or ".dense()" in str(error), f"{name} {other}: {error}"
            continue
        except Exception:
            assert truth is None, f"{name} {other}"
            continue
        if truth is not None:
            assert_same(found, truth, f"{name} {other} {swapped}")


@pytest.mark.parametrize("subject", SUBJECTS)
def test_protocols_of_python_and_numpy_are_refused(subject):
    x = SUBJECTS[subject]()
    for use in (
        bool,
        float,
        int,
        complex,
        list,
        abs,
        np.array,
        np.asarray,
        np.sum,
        np.mean,
        np.sin,
        operator.index,
        operator.invert,
        lambda x: 0.5 in x,
        lambda x: np.add(np.ones(N_ITEMS), x),
        np.negative,
        lambda x: np.concatenate([x, x]),
        lambda x: operator.setitem(x, 0, 1),
        lambda x: np.ones((N_ROWS, N_ROWS)) @ x,
        lambda x: x[0],
        lambda x: x[:, 0],
        lambda x: x[torch.ones(N_ROWS, dtype=torch.uint8)],
        lambda x: block()[x],
        lambda x: torch.where(x, 1, 0),
        lambda x: torch.where(block() > 0, x, block()),
        lambda x: x.sum(),
        lambda x: torch.add(x, x, out=block()),
        lambda x: torch.zeros_like(x),
        lambda x: x.mean(0),
        lambda x: torch.einsum("bi,bi->b", x, block()),
        reversed,
        lambda x: torch.zeros(N_ROWS, N_ITEMS).copy_(x),
        lambda x: torch.maximum(x, block()),
    ):
        with pytest.raises(TypeError, match=r"\.dense\(\)"):
            use(x)


# --- expand_as --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "tensor",
    [column(), torch.rand(1, 1), torch.tensor(0.3), torch.rand(N_ITEMS), torch.rand(1, N_ITEMS), block()],
    ids=lambda x: str(tuple(x.shape)),
)
def test_expand_as_has_the_shape_of_the_rows_and_is_the_same_in_everything(tensor):
    rows, dense = rows_of(), plain(rows_of())
    for change in (
        lambda a: a,
        lambda a: 1 - a,
        lambda a: -(2 * a + 1) / 4,
        lambda a: a - a * 0.5,
        lambda a: a.clone(),
    ):
        lazy, truth = change(tensor.expand_as(rows)), change(tensor.expand_as(dense))
        assert lazy.shape == truth.shape == (N_ROWS, N_ITEMS)
        for use in (
            lambda a, r: a.norm(dim=1),
            lambda a, r: a.sum(),
            lambda a, r: torch.cat((a, a), 1),
            lambda a, r: a > 0.5,
            lambda a, r: a[:, 2],
            lambda a, r: a.sqrt(),
            lambda a, r: a + r,
            lambda a, r: F.linear(a, a.contiguous()),
        ):
            assert_same(use(lazy, rows), use(truth, dense), tensor.shape)
    if tensor.ndim != 1 and tensor.shape[-1:] != (N_ITEMS,):
        alpha = tensor.expand_as(rows)
        assert (1 - alpha).stride(1) == 0, "the column became a matrix"
        assert isinstance((1 - alpha) * rows, RelationRows)
        assert_same((1 - alpha) * rows + alpha * block(), (1 - alpha) * dense + alpha * block(), "mixed")


# --- autocast, torch.func, autograd -----------------------------------------------------------------------------------
def test_entries_are_exact_under_autocast_and_products_in_its_dtype():
    rows, weight = rows_of().float(), torch.randn(H, N_ITEMS)
    truth, dense = torch.topk(rows.dense(), 3), rows.dense()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rows.dense(), dense) and torch.allclose(rows.topk(3).values, truth.values)
        assert torch.allclose(rows.row_norm(), dense.norm(dim=1))
        assert F.linear(rows, weight).dtype == F.linear(dense, weight).dtype == torch.bfloat16


def test_transforms_of_torch_func_are_refused():
    rows = rows_of()
    for transformed in (
        lambda: torch.func.grad(lambda w: F.linear(rows, w).sum())(torch.ones(H, N_ITEMS, dtype=torch.float64)),
        lambda: torch.func.vmap(lambda w: F.linear(rows, w))(torch.ones(2, H, N_ITEMS, dtype=torch.float64)),
    ):
        with pytest.raises(TypeError, match=r"\.dense\(\)"):
            transformed()


@pytest.mark.parametrize(
    "use",
    [
        lambda x: torch.norm(x, dim=1),
        lambda x: x.dense().sum(1),
        lambda x: x.topk(2).values.sum(1),
        lambda x: F.linear(2 * x, torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(torch.cat((x, x)), torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(F.normalize(x), torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(x + x, torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(x[1:], torch.ones(1, N_ITEMS, dtype=torch.float64)),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_a_gradient_that_would_lack_a_term_is_refused(use, grad):
    x = rows_of(grad)
    x.requires_grad_()
    loss = use(x).sum() + F.linear(x, weights(H, N_ITEMS)).sum()
    with pytest.raises(TypeError, match=r"only linear layers can be differentiated .*use \.dense\(\)"):
        torch.autograd.grad(loss, x)
