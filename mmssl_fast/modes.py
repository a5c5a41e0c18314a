"""Helpers for tensors that are cached between calls and must not depend on the mode in which they were created.

Examples of cached tensors are degree scales, transposes and drawn rows. A tensor created under torch.inference_mode
cannot be saved for backward. A tensor created while torch.export traces has no data. A tensor created inside a
torch.func transform belongs to that transform.
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
    """A context without inference mode, gradients, autocast, tracing and torch.func transforms."""
    autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes(), torch._C._DisableFuncTorch():
        if not any(autocast):
            yield
            return
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield


def lasting(x: Tensor) -> Tensor:
    """Returns x in a form that can be kept for later calls: a copy if x was created under torch.inference_mode, else x
    itself."""
    if not x.is_inference():
        return x
    with outside_modes():
        return x.clone()


def is_traced(x: Tensor) -> bool:
    """Whether x has no data of its own: torch.export, torch.compile, FakeTensorMode or torch.func created it."""
    return isinstance(x, FakeTensor) or torch._is_functional_tensor(x) or is_transformed(x)


def is_tracing() -> bool:
    """Whether torch.export, torch.compile or FakeTensorMode is active in this thread."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _TRACERS)


def is_transformed(x: Tensor) -> bool:
    """Whether x belongs to a torch.func transform."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)
