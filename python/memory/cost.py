"""`mmssl-fast benchmark --plan`: what a step moves and computes, the least time a device needs for it, and how large
a catalogue fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.table import Table

from ..config.byte_size import readable
from ..errors import InputError
from .free import free_memory
from .plan import Sizes, Stage, held, peak, stages


@dataclass(frozen=True)
class Device:
    """bandwidth: bytes/s of memory; rate: float32-accurate matrix operations/s; memory: bytes."""

    bandwidth: float
    rate: float
    memory: float


# GPUs: NVIDIA's data sheets (SXM), a float32-accurate product as three dense TF32 ones.
DEVICES = {
    "h100": Device(3.35e12, 494e12 / 3, 80e9),
    "h200": Device(4.8e12, 494e12 / 3, 141e9),
    "a100": Device(2.04e12, 156e12 / 3, 80e9),
}


def device_named(name: str) -> Device:
    """One of DEVICES, or "cpu": this machine, its product and copy timed for a moment. Raises InputError."""
    if name == "cpu":
        return _this_machine()
    if name not in DEVICES:
        raise InputError(f"--device {name}: the plan knows {', '.join(DEVICES)} and cpu")
    return DEVICES[name]


def _this_machine(size: int = 1024) -> Device:
    import time

    import torch

    a, b, copied = torch.randn(size, size), torch.randn(size, size), torch.randn(1 << 24)

    def best(call) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return min(times)

    into = torch.empty_like(copied)
    bandwidth = 2 * copied.nbytes / best(lambda: into.copy_(copied))
    return Device(bandwidth, 2 * size**3 / best(lambda: a @ b), float(free_memory()))


def floor(stage: Stage, device: Device) -> float:
    """Seconds that a stage takes at best: the longer of its traffic and its arithmetic."""
    return max(stage.moved / device.bandwidth, stage.operations / device.rate)


def largest_catalogue(sizes: Sizes, memory: float) -> Sizes:
    """The same shape, users, items and interactions in proportion, as large as fits."""
    low, high = 0.0, 1.0
    while peak(stages(scaled(sizes, high))) <= memory and high < 1e9:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if peak(stages(scaled(sizes, middle))) <= memory else (low, middle)
    return scaled(sizes, low)


def scaled(sizes: Sizes, factor: float) -> Sizes:
    users, items, interactions = (int(n * factor) for n in (sizes.users, sizes.items, sizes.interactions))
    return replace(sizes, users=users, items=items, interactions=interactions)


def table(sizes: Sizes, name: str, memory: float | None = None) -> tuple[Table, list[str]]:
    """(a line a stage, the sentences below it)."""
    device = device_named(name)
    memory = device.memory if memory is None else memory
    found = stages(sizes)
    shown = Table(title=f"one training step on {name}, at best", title_justify="left")
    for heading in ("stage", "kept", "needed for a while", "moved", "Gflop", "floor ms"):
        shown.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in found:
        shown.add_row(
            stage.name, readable(stage.held), readable(stage.passing), readable(stage.moved),
            f"{stage.operations / 1e9:.1f}", f"{floor(stage, device) * 1e3:.2f}",
        )  # fmt: skip
    total = sum(floor(stage, device) for stage in found)
    fits = largest_catalogue(sizes, memory)
    return shown, [
        f"a step takes at least {total * 1e3:.1f} ms, kept {readable(held(found))}, at the highest "
        f"{readable(peak(found))}",
        f"the largest catalogue of this shape in {readable(memory)}: {fits.users} users, {fits.items} items, "
        f"{fits.interactions} interactions",
        "memory counts tensors and what a CPU's allocator keeps, and was within 15% of the runs it was held to; times "
        "are floors, counted and not measured",
    ]
