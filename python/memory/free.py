"""How much memory can still be had, of the machine, of the cgroups above this process, of a GPU."""

from __future__ import annotations

import os
from pathlib import Path


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be had: of the device for CUDA, else of the machine and of every cgroup above this
    process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    return min([_available(), *_left_in_cgroups()])


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each limit leaves, of cgroups of version 2 (version 1: the memory controller's own limit)."""
    left = []
    try:
        unified = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::/")]
    except OSError:
        return left
    places = [root / part.lstrip("/") for part in unified]
    for place in [*places, *(above for one in places for above in one.parents if above.is_relative_to(root)),
                  root / "memory"]:  # fmt: skip
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                left.append(max(0, int((place / limit).read_text()) - int((place / used).read_text())))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return left
