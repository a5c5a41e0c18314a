"""The launch of kernels. Every launcher calls `launch`, so that compile_gate.py can record exactly what would run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Launch(NamedTuple):
    """A kernel and the arguments of its launch."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]


_recorded: list[Launch] | None = None
_arch = 90


def arch_of(device: torch.device) -> int:
    """The architecture of a device, for example 80 for compute capability 8.0. For "meta", the one of `recording`."""
    if device.type != "cuda":
        return _arch
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2, **constants: Any) -> None:
    """Equals ``kernel[grid](*args, **constants)`` on the device of the first tensor. An empty grid is not launched.

    Args:
        args: tensors and numbers in the order of the kernel's arguments.
        constants: its tl.constexpr arguments.
        warps, stages: num_warps and num_stages of Triton. They depend on shapes and are not tuned at run time, so that
            results do not change between runs.
    """
    if 0 in grid:
        return
    # Contraction to fma is set explicitly, because Triton's default for it is going to change.
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, constants, options))
        return
    device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **constants, **options)


@contextlib.contextmanager
def recording(arch: int) -> Iterator[list[Launch]]:
    """A context in which `launch` records the launches instead of starting kernels, as for a GPU of compute capability
    arch / 10. Launchers can then be called with tensors on "meta"."""
    global _recorded, _arch
    before = _recorded, _arch
    _recorded, _arch = [], arch
    try:
        yield _recorded
    finally:
        _recorded, _arch = before
