"""torch's optimisers without its compiler."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T", bound=torch.optim.Optimizer)
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # besides step


@functools.cache
def without_compiler(kind: type[T]) -> type[T]:
    """A subclass of `kind` that computes the same and does not import torch._dynamo.

    torch's own methods import it to tell the compiler not to compile them. This loads 800 modules and doubles the time
    that `import torch` takes, in each process of a run, and nothing here is compiled (torch 2.13,
    findings/torch-optimizer-imports-compiler.sh).

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimiser = without_compiler(torch.optim.SGD)([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> optimiser.step()
        >>> weight.tolist()
        [0.5, 0.5]
    """
    methods = {name: _plain(getattr(kind, name)) for name in _METHODS}
    # torch.optim.Optimizer.step enables gradients if the optimiser is differentiable; those of a run are not.
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(_plain(kind.step))})


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function within torch's decorators."""
    return inspect.unwrap(method)
