"""Compares a function of existing code with its replacement, before anything is replaced.

A comparison runs both functions on the same inputs and with the same states of the random generators. A method of a
class is called with an uninitialised instance as `self`, which has only the attributes that the known code reads. A
method of an object is called with that object, whose attributes are restored afterwards. The comparison takes place
before training begins, so it can raise an error in time, and the training loop has no additional cost.
"""

from __future__ import annotations

import functools
import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..relation import RelationRows
from .attributes import Attributes
from .sparse.adjacency import Adjacency

VALUE, GRADIENT = 1e-4, 1e-3  # largest error, relative to the largest entry; float32, gradients through two backwards
SEED = 2022

# The instances of `uninitialised` in the case that runs, as they were.
_instances: ContextVar[list[Attributes]] = ContextVar("_instances")

Observations = list[tuple[str, object]]
Case = Callable[[Any], Observations]


def difference(
    original: Any, replacement: Any, cases: list[Case], objects: Mapping[str, Any] | None = None
) -> str | None:
    """The reason why `replacement` is not equal to `original`, in one line, or None if nothing differs.

    cases: functions that call the given function and return their observations as (name, value) pairs.
    objects: objects that the function may change, by the names that the reason gives them. The attributes that it sets,
        there and on instances made by `uninitialised`, are compared by name. They are restored, and so are the states
        of the random generators of Python, NumPy and torch.
    """
    with _generators_kept():
        for case in cases:
            truth, ends, written = _run(original, case, objects or {})
            found, other_ends, other_written = _run(replacement, case, objects or {})
            if isinstance(truth, Exception):
                return f"cannot be compared: the original code raised {_line(truth)}"
            if isinstance(found, Exception):
                return f"the replacement raised {_line(found)}"
            if reason := _unequal(truth, found):
                return reason
            if ends != other_ends:
                return "draws other random numbers"
            if lost := sorted(written - other_written):
                return f"sets {lost[0]}, which the replacement does not set"
    return None


def with_parameters_of(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any] | str:
    """`replacement` as a function that accepts the calls that `original` accepts, or the reason why this is impossible.

    Required parameters may have other names. An optional parameter that `replacement` lacks is a difference.
    """
    if not callable(original):
        return f"is a {type(original).__name__}, not a function"
    try:
        signature, new_signature = inspect.signature(original), inspect.signature(replacement)
    except (TypeError, ValueError) as error:  # of a function that is not Python's
        return _line(error)
    if _bare(signature) == _bare(new_signature):
        return replacement
    required, optional = _parameters(signature)
    new_required, new_optional = _parameters(new_signature)
    if required is None or new_required is None or len(required) != len(new_required):
        return f"takes {_bare(signature)}, the replacement takes {_bare(new_signature)}"
    if unknown := [name for name in optional if name not in new_optional]:
        return f"has a parameter {unknown[0]!r} that the replacement lacks"
    if [*required, *optional] == [*new_required, *new_optional][: len(required) + len(optional)]:
        return replacement

    @functools.wraps(original)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        options = {name: value for name, value in arguments.items() if name in optional}
        return replacement(*(arguments[name] for name in required), **options)

    return renamed


def observed(result: Any, leaves: Sequence[Tensor] = ()) -> Observations:
    """The number of results, each result as a tensor or number, and the gradients of each with respect to `leaves`."""
    results = list(result) if isinstance(result, tuple | list) else [result]
    found: Observations = [("number of results", len(results))]
    for i, x in enumerate(results):
        name = f"result {i + 1}" if len(results) > 1 else "the result"
        x = x.dense() if isinstance(x, RelationRows) else x
        found.append((name, x.detach() if isinstance(x, Tensor) else x))
        if isinstance(x, Tensor) and x.requires_grad:
            weight = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device).cos().view(x.shape)
            gradients = torch.autograd.grad(x, leaves, weight, retain_graph=True, allow_unused=True)
            found.append(
                (
                    f"the gradient of {name}",
                    [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)],
                )
            )
    return found


def product(matrix: Tensor | Adjacency, x: Tensor) -> Observations:
    """The observable properties of a sparse matrix: shape, device, and the product with x [C, d] with its gradient."""
    place = [("shape", tuple(matrix.shape)), ("device", matrix.device)]
    x = x.to(matrix.device).requires_grad_()
    return place + observed(torch.sparse.mm(matrix, x), [x])


def in_both_modes(model: torch.nn.Module, call: Callable[[], Observations]) -> Observations:
    """What `call` observes while the model is in training mode, and in evaluation mode."""
    found: Observations = []
    for training in (True, False):
        model.train(training)
        found += call()
    return found


def with_hits(metrics: Mapping[str, Any]) -> Observations:
    """The metrics of an evaluation, which must not all be zero: then they would be equal for any ranking."""
    if not any(np.any(value) for value in metrics.values()):
        raise RuntimeError("every metric is 0, so no list has a hit, and rankings cannot be compared")
    return sorted(metrics.items())


def uninitialised(cls: type, **attributes: Any) -> Any:
    """An instance of `cls` that has these attributes and whose `__init__` was not called."""
    instance: Any = object.__new__(cls)
    vars(instance).update(attributes)
    _instances.get([]).append(Attributes("self", instance))
    return instance


class Instance:
    """A class for `uninitialised` where the code needs no particular one."""


@contextmanager
def perturbed(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, parameters have other values: a tenth of their size is added, and to constant ones half of the size of
    the others. Code that uses a parameter that is initially 0 or 1 then differs from code that does not."""
    dense = [p for p in parameters if p.is_floating_point() and p.layout == torch.strided and p.numel()]
    kept = [(p, p.detach().clone()) for p in dense]
    sizes = [float(before.abs().mean()) for _, before in kept]
    constant = [bool((before == before.flatten()[0]).all()) for _, before in kept]
    usual = [size for size, same in zip(sizes, constant, strict=True) if not same] or [1.0]
    random = torch.Generator().manual_seed(SEED)
    try:
        with torch.no_grad():
            for (p, _), size, same in zip(kept, sizes, constant, strict=True):
                scale = 0.1 * size + (0.5 * sum(usual) / len(usual) if same else 0)
                p.add_(torch.randn(p.shape, generator=random).to(p) * scale)
        yield
    finally:
        with torch.no_grad():
            for p, before in kept:
                p.copy_(before)


def _parameters(signature: inspect.Signature) -> tuple[list[str] | None, list[str]]:
    """Names of the required and the optional parameters; None for a signature with * or **."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature.parameters.values()
    if any(p.kind not in kinds for p in parameters):
        return None, []
    required = [p.name for p in parameters if p.default is p.empty]
    return required, [p.name for p in parameters if p.default is not p.empty]


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """The signature without annotations."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return inspect.Signature(parameters)


def _run(function: Any, case: Case, objects: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...], set[str]]:
    """(the observations of the case, or the error it raised; the states of the generators afterwards; the attributes
    that were set)."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)
    known = [Attributes(name, x) for name, x in objects.items()]
    token = _instances.set([])
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            found: Any = case(function)
    except Exception as error:  # an error of either function is reported as a difference
        found = error
    written = {name for attributes in (*known, *_instances.get()) for name in attributes.changed()}
    _instances.reset(token)
    for attributes in known:
        attributes.restore()
    ends = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    return found, ends, written


@contextmanager
def _generators_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _unequal(truth: Observations, found: Observations) -> str | None:
    for (name, expected), (_, actual) in zip(truth, found, strict=False):
        if reason := _unequal_values(expected, actual, GRADIENT if name.startswith("the gradient") else VALUE):
            return f"{name}: {reason}"
    names, found_names = [name for name, _ in truth], [name for name, _ in found]
    if names != found_names:
        return f"the original code gives {', '.join(names)}; the replacement gives {', '.join(found_names)}"
    return None


def _unequal_values(expected: Any, actual: Any, tolerance: float) -> str | None:
    if isinstance(expected, list | tuple) and isinstance(actual, list | tuple):
        if len(expected) != len(actual):
            return f"{len(expected)} values, the replacement gives {len(actual)}"
        largest = max((float(x.abs().max()) for x in expected if isinstance(x, Tensor) and x.numel()), default=0.0)
        pairs = zip(expected, actual, strict=True)
        return next((reason for pair in pairs if (reason := _unequal_entries(*pair, tolerance, largest))), None)
    return _unequal_entries(expected, actual, tolerance, 0.0)


def _unequal_entries(expected: Any, actual: Any, tolerance: float, largest: float) -> str | None:
    """largest: the largest entry of all gradients of a result. A gradient far below it, such as that of a bias before
    BatchNorm, is only a rounding error."""
    arrays = (Tensor, np.ndarray)
    if not (isinstance(expected, arrays) and isinstance(actual, arrays)):
        # Numbers of different types may be equal, but a tensor or an array never equals a number.
        comparable = type(expected) is type(actual) or not any(isinstance(x, arrays) for x in (expected, actual))
        if comparable and expected == actual:
            return None
        return f"{_short(expected)}, the replacement gives {_short(actual)}"
    expected, actual = (x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x)) for x in (expected, actual))
    for what in ("shape", "dtype", "device"):
        a, b = (getattr(x, what) for x in (expected, actual))
        if a != b:
            return f"{what} {_short(a)}, the replacement gives {_short(b)}"
    if not expected.numel():
        return None
    error, scale = float((expected.double() - actual.double()).abs().max()), float(expected.double().abs().max())
    if error <= tolerance * scale + 1e-5 * largest + 1e-12:
        return None
    if expected.numel() == 1:
        return f"{expected.item():.6g}, the replacement gives {actual.item():.6g}"
    return f"entries differ by up to {error:.3g}, the largest is {scale:.3g}"


def _short(x: Any) -> str:
    if isinstance(x, Tensor | np.ndarray):
        return f"a {type(x).__name__} of shape {tuple(x.shape)}"
    return str(tuple(x)) if isinstance(x, torch.Size) else repr(x)[:80]
