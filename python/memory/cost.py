"""`mmssl-fast benchmark --plan`: memory traffic and operations of a training step, a lower bound on its time on a
device, and the largest catalogue that fits into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.table import Table

from ..config.byte_size import readable
from ..errors import InputError
from .free import free_memory
from .plan import Sizes, peak, persistent_bytes, stages
from .stage import Stage


@dataclass(frozen=True)
class Device:
    """bandwidth: memory bandwidth in bytes/s; rate: matrix operations/s at float32 accuracy; memory: bytes."""

    bandwidth: float
    rate: float
    memory: float


# From NVIDIA's data sheets (SXM). A product with float32 accuracy takes three dense TF32 products.
DEVICES = {
    "h100": Device(3.35e12, 494e12 / 3, 80e9),
    "h200": Device(4.8e12, 494e12 / 3, 141e9),
    "a100": Device(2.04e12, 156e12 / 3, 80e9),
}


def device_named(name: str) -> Device:
    """One of DEVICES; for "cpu" this machine, from short timings. Raises InputError if the name is unknown."""
    if name == "cpu":
        return _this_machine()
    if name not in DEVICES:
        raise InputError(f"--device {name}: must be one of {', '.join(DEVICES)}, cpu")
    return DEVICES[name]


def _this_machine(size: int = 1024) -> Device:
    import time

    import torch

    a, b, source = torch.randn(size, size), torch.randn(size, size), torch.randn(1 << 24)

    def best(call) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best(lambda: target.copy_(source))  # read and write
    return Device(bandwidth, 2 * size**3 / best(lambda: a @ b), float(free_memory()))


def floor(stage: Stage, device: Device) -> float:
    """Lower bound on the seconds of a stage (roofline): the larger of memory traffic time and arithmetic time."""
    return max(stage.moved / device.bandwidth, stage.operations / device.rate)


def largest_catalogue(sizes: Sizes, memory: float) -> Sizes:
    """The largest multiple of these sizes (users, items and interactions scaled together) that fits into memory."""
    low, high = 0.0, 1.0
    # Doubling finds an upper bound, then bisection.
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
    """(table with one row per stage, sentences to print below it)."""
    device = device_named(name)
    memory = device.memory if memory is None else memory
    step_stages = stages(sizes)
    grid = Table(title=f"one training step on {name}, lower bounds", title_justify="left")
    for heading in ("stage", "persistent", "temporary", "traffic", "Gflop", "min. ms"):
        grid.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in step_stages:
        grid.add_row(
            stage.name,
            readable(stage.persistent),
            readable(stage.temporary),
            readable(stage.moved),
            f"{stage.operations / 1e9:.1f}",
            f"{floor(stage, device) * 1e3:.2f}",
        )
    total = sum(floor(stage, device) for stage in step_stages)
    fits = largest_catalogue(sizes, memory)
    return grid, [
        f"a step takes at least {total * 1e3:.1f} ms; persistent memory {readable(persistent_bytes(step_stages))}, "
        f"peak {readable(peak(step_stages))}",
        f"the largest catalogue of this shape in {readable(memory)}: {fits.users} users, {fits.items} items, "
        f"{fits.interactions} interactions",
        "memory counts tensors and the overhead of a CPU's allocator; it was within 15% of measured runs. Times are "
        "lower bounds computed from traffic and operations, not measurements",
    ]
