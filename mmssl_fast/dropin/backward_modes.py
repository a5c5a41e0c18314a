"""torch's entries to backward, which torch takes every TorchFunctionMode off for, with the modes left on.

Activation checkpointing runs the forward again during backward. Without the mode torch would take the products then,
and its use_reentrant=False refuses to go on, as other tensors are saved than the first time.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _under_modes(function: Any) -> Callable[..., Any]:
    """`function` with the modes on."""
    scope = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_backward = _under_modes(torch.autograd.backward)


def _tensor_backward(
    tensor: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    _backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)


BACKWARD: dict[Any, Callable[..., Any]] = {
    Tensor.backward: _tensor_backward,
    torch.autograd.backward: _backward,
    torch.autograd.grad: _under_modes(torch.autograd.grad),
}
