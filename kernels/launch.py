"""How kernels are started. Every launcher goes through `launch`, so that `compile_gate` sees exactly what would run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch


class Launch(NamedTuple):
    """A kernel with what it would be started with."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]


_recorded: list[Launch] | None = None
_arch = 90


def arch_of(device: torch.device) -> int:
    """80 for compute capability 8.0; of "meta" the one that `recording` is given."""
    if device.type != "cuda":
        return _arch
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, stages: int = 2, **constants: Any) -> None:
    """Starts ``kernel[grid](*args, **constants)`` on the device of the first tensor; nothing to do for an empty grid.

    Args:
        args: tensors and numbers, in the order of the kernel's arguments; constants: its tl.constexpr ones.
        warps, stages: Triton's num_warps and num_stages. Fixed by shape, never tuned at run time.
    """
    if 0 in grid:
        return
    # Contraction to fma is stated because Triton's default for it is about to change.
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, args, constants, options))
        return
    device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **constants, **options)


@contextlib.contextmanager
def recording(arch: int) -> Iterator[list[Launch]]:
    """Within it `launch` starts nothing and notes everything, as for a GPU of compute capability arch / 10; launchers
    may then be given tensors on "meta"."""
    global _recorded, _arch
    before = _recorded, _arch
    _recorded, _arch = [], arch
    try:
        yield _recorded
    finally:
        _recorded, _arch = before
