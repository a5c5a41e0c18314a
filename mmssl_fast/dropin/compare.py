"""Compares a part of a client with what would replace it, before anything is replaced.

A comparison runs both functions on the same inputs from the same generator states, for a class with a stand-in for
`self` that has the attributes of the code known and no others, for an object with the object itself. So everything is
decided before training begins, the decision can raise, and the loop pays nothing.
"""

from __future__ import annotations

import functools
import inspect
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..relation import RelationRows
from .sparse.adjacency import Adjacency

VALUE, GRADIENT = 1e-4, 1e-3  # largest error, relative to the largest entry; float32, gradients through two backwards
SEED = 2022

Case = Callable[[Any], list[tuple[str, object]]]


def difference(own: Any, mine: Any, cases: list[Case]) -> str | None:
    """Why `mine` may not take the place of the client's `own`, in one line; None where nothing differs.

    cases: each uses the function it is given and returns what it observed, (name, value) pairs. The generators of
    Python, NumPy and torch are left as they were.
    """
    with _generators_kept():
        for case in cases:
            (truth, ends), (found, other_ends) = _run(own, case), _run(mine, case)
            if isinstance(truth, Exception):
                return f"cannot be compared: the client's code raised {_line(truth)}"
            if isinstance(found, Exception):
                return f"the replacement raised {_line(found)}"
            if reason := _unequal(truth, found):
                return reason
            if ends != other_ends:
                return "draws other random numbers"
    return None


def with_parameters_of(own: Callable[..., Any], mine: Callable[..., Any]) -> Callable[..., Any] | str:
    """`mine` as a function that accepts the calls that `own` accepts, or why that cannot be.

    Required parameters may have other names. An optional one that `mine` lacks is a difference.
    """
    signature, ours = inspect.signature(own), inspect.signature(mine)
    required, optional = _parameters(signature)
    our_required, our_optional = _parameters(ours)
    if required is None or our_required is None or len(required) != len(our_required):
        return f"takes {signature}, the replacement takes {ours}"
    if unknown := [name for name in optional if name not in our_optional]:
        return f"has a parameter {unknown[0]!r} that the replacement lacks"
    if [*required, *optional] == [*our_required, *our_optional][: len(required) + len(optional)]:
        return mine

    @functools.wraps(own)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        options = {name: value for name, value in arguments.items() if name in optional}
        return mine(*(arguments[name] for name in required), **options)

    return renamed


def observed(result: Any, leaves: Sequence[Tensor] = ()) -> list[tuple[str, object]]:
    """The number of results, each result as a tensor or number, and the gradients of each with respect to `leaves`."""
    results = list(result) if isinstance(result, tuple | list) else [result]
    found: list[tuple[str, object]] = [("number of results", len(results))]
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


def product(matrix: Tensor | Adjacency, x: Tensor) -> list[tuple[str, object]]:
    """What a client sees of a sparse matrix: its shape, its device and its product with x [C, d], with the gradient."""
    place = [("shape", tuple(matrix.shape)), ("device", matrix.device)]
    x = x.to(matrix.device).requires_grad_()
    return place + observed(torch.sparse.mm(matrix, x), [x])


def stand_in(cls: type, **attributes: Any) -> Any:
    """An instance of `cls` that was never initialised, with these attributes."""
    instance: Any = object.__new__(cls)
    vars(instance).update(attributes)
    return instance


def _parameters(signature: inspect.Signature) -> tuple[list[str] | None, list[str]]:
    """Names of the required and the optional parameters; None for a signature with * or **."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = signature.parameters.values()
    if any(p.kind not in kinds for p in parameters):
        return None, []
    required = [p.name for p in parameters if p.default is p.empty]
    return required, [p.name for p in parameters if p.default is not p.empty]


def _run(function: Any, case: Case) -> tuple[Any, tuple[Any, ...]]:
    """(what the case observed, or what it raised; the states of the generators afterwards)."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    torch.manual_seed(SEED)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            found: Any = case(function)
    except Exception as error:  # whatever the client's code raises is a reason to leave it alone
        found = error
    return found, (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002


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


def _unequal(truth: list[tuple[str, object]], found: list[tuple[str, object]]) -> str | None:
    for (name, own), (_, mine) in zip(truth, found, strict=False):
        if reason := _unequal_values(own, mine, GRADIENT if name.startswith("the gradient") else VALUE):
            return f"{name}: {reason}"
    names, ours = [name for name, _ in truth], [name for name, _ in found]
    if names != ours:
        return f"the client's code gives {', '.join(names)}; the replacement {', '.join(ours)}"
    return None


def _unequal_values(own: Any, mine: Any, tolerance: float) -> str | None:
    if isinstance(own, list | tuple) and isinstance(mine, list | tuple):
        if len(own) != len(mine):
            return f"{len(own)} values, the replacement gives {len(mine)}"
        largest = max((float(x.abs().max()) for x in own if isinstance(x, Tensor) and x.numel()), default=0.0)
        pairs = zip(own, mine, strict=True)
        return next((reason for pair in pairs if (reason := _unequal_entries(*pair, tolerance, largest))), None)
    return _unequal_entries(own, mine, tolerance, 0.0)


def _unequal_entries(own: Any, mine: Any, tolerance: float, largest: float) -> str | None:
    """largest: of all gradients of a result. Rounding errors, as a bias before BatchNorm has, are noise."""
    arrays = (Tensor, np.ndarray)
    if not (isinstance(own, arrays) and isinstance(mine, arrays)):
        same = type(own) is type(mine) or (not isinstance(own, arrays) and not isinstance(mine, arrays))
        return None if same and own == mine else f"{_short(own)}, the replacement gives {_short(mine)}"
    own, mine = (x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x)) for x in (own, mine))
    for what in ("shape", "dtype", "device"):
        a, b = (getattr(x, what) for x in (own, mine))
        if a != b:
            return f"{what} {_short(a)}, the replacement gives {_short(b)}"
    if not own.numel():
        return None
    error, scale = float((own.double() - mine.double()).abs().max()), float(own.double().abs().max())
    if error <= tolerance * scale + 1e-5 * largest + 1e-12:
        return None
    if own.numel() == 1:
        return f"{own.item():.6g}, the replacement gives {mine.item():.6g}"
    return f"entries differ by up to {error:.3g}, the largest is {scale:.3g}"


def _short(x: Any) -> str:
    if isinstance(x, Tensor | np.ndarray):
        return f"a {type(x).__name__} of shape {tuple(x.shape)}"
    return str(tuple(x)) if isinstance(x, torch.Size) else repr(x)[:80]
