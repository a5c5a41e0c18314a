"""Tensors that outlive the mode of torch they are first needed in.

What is kept between calls (degree scales, transposes, drawn rows) must not remember the mode of the call that made it:
a tensor made under torch.inference_mode cannot be saved for backward, one made while torch.export traces has no data,
and one made inside a torch.func transform belongs to that transform.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

_TRACERS = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)


@contextmanager
def outside_modes() -> Iterator[None]:
    """Inside, torch computes as plain code does: no inference mode, gradients, autocast, tracing or torch.func."""
    autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes(), torch._C._DisableFuncTorch():
        if not any(autocast):
            yield
            return
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield


def lasting(x: Tensor) -> Tensor:
    """x, copied where it was made under torch.inference_mode: what can be kept for a later call under any mode."""
    if not x.is_inference():
        return x
    with outside_modes():
        return x.clone()


def is_traced(x: Tensor) -> bool:
    """Whether x is a stand-in of torch.export, torch.compile, FakeTensorMode or torch.func, not a tensor with data."""
    return isinstance(x, FakeTensor) or torch._is_functional_tensor(x) or is_transformed(x)


def is_tracing() -> bool:
    """Whether torch.export, torch.compile or FakeTensorMode follows the calls of this thread."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)


def is_transformed(x: Tensor) -> bool:
    """Whether x belongs to a torch.func transform."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)
