"""Free memory: of the machine, of the cgroups of this process, of a GPU."""

from __future__ import annotations

import os
from pathlib import Path


def free_memory(device: str = "cpu") -> int:
    """Free memory in bytes: of the GPU for a CUDA device, otherwise the minimum over the machine and the cgroups that
    contain this process."""
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


def _left_in_cgroups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """The bytes that each cgroup limit leaves. Version 2: every ancestor; version 1: the memory controller."""
    left: list[int] = []
    try:
        unified = [line[3:] for line in membership.read_text().splitlines() if line.startswith("0::/")]
    except OSError:
        return left
    groups = [root / part.lstrip("/") for part in unified]
    ancestors = [parent for group in groups for parent in group.parents if parent.is_relative_to(root)]
    for group in [*groups, *ancestors, root / "memory"]:
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                left.append(max(0, int((group / limit).read_text()) - int((group / used).read_text())))
            except (OSError, ValueError):  # the file does not exist, or contains "max"
                continue
    return left
