"""`mmssl-fast benchmark --plan`: memory traffic and operations of a training step, a lower bound on its time on a
device, and the largest catalogue that fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.table import Table

from ..config.byte_size import readable
from ..errors import InputError
from .free import free_memory
from .plan import peak, persistent_bytes, stages
from .sizes import Sizes, divisors, smallest_groups
from .stage import Stage


@dataclass(frozen=True)
class Device:
    """bandwidth: memory bandwidth in bytes/s; rate: matrix operations/s at float32 accuracy; memory: bytes; link,
    network: bytes/s that a device receives from others in its machine, and from other machines."""

    bandwidth: float
    rate: float
    memory: float
    link: float = 0.0
    network: float = 0.0


# From NVIDIA's data sheets (SXM). A product with float32 accuracy takes three dense TF32 products. Links are counted at
# 80% of the line rate, which is about what NCCL reaches (NVIDIA/nccl-tests#212: 360 of 450 GB/s on an H100), and the
# network at 90% of one 400 Gb/s (A100: 200 Gb/s) adapter per GPU.
DEVICES = {
    "h100": Device(3.35e12, 494e12 / 3, 80e9, 360e9, 45e9),
    "h200": Device(4.8e12, 494e12 / 3, 141e9, 360e9, 45e9),
    "a100": Device(2.04e12, 156e12 / 3, 80e9, 240e9, 22.5e9),
}
MOST_RANKS = 65536


@dataclass(frozen=True)
class Machines:
    """machines, each with `each` devices, one for each rank."""

    machines: int = 1
    each: int = 1

    @property
    def ranks(self) -> int:
        return self.machines * self.each


def machines_named(text: str) -> Machines:
    """ "8" ranks on one machine, or "4x8": 4 machines with 8 ranks each. Raises InputError for anything else."""
    machines, _, each = text.lower().rpartition("x")
    try:
        found = Machines(int(machines or 1), int(each))
    except ValueError:
        found = Machines(0, 0)
    if min(found.machines, found.each) < 1 or found.ranks > MOST_RANKS:
        raise InputError(f"--ranks {text}: must be a number of ranks such as 8, or machines x ranks such as 4x8")
    return found


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

    def best(call: Callable[[], object]) -> float:
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


def transfer(received: int, device: Device, machines: Machines) -> float:
    """Lower bound on the seconds in which a rank receives these bytes, equally many from every other rank."""
    if machines.ranks == 1:
        return 0.0
    from_outside = received * (machines.ranks - machines.each) / (machines.ranks - 1)
    return max(from_outside / device.network, (received - from_outside) / device.link)


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


def fitting_groups(sizes: Sizes, name: str, memory: float | None = None) -> int:
    """The smallest number of groups with which these sizes fit the memory limit, by default that of the device. Raises
    InputError if there is none."""
    memory = device_named(name).memory if memory is None else memory

    def needed(groups: int) -> int:
        return peak(stages(replace(sizes, groups=groups)))

    groups = smallest_groups(sizes.ranks, lambda groups: needed(groups) <= memory)
    if groups is None:
        least = min(map(needed, divisors(sizes.ranks)))
        raise InputError(
            f"--groups auto: with any number of groups, a rank needs at least {readable(least)} of {readable(memory)}; "
            "use more ranks, or --least-memory, which assumes prepared data"
        )
    return groups


def scaled(sizes: Sizes, factor: float) -> Sizes:
    users, items, interactions = (int(n * factor) for n in (sizes.users, sizes.items, sizes.interactions))
    return replace(sizes, users=users, items=items, interactions=interactions)


def table(
    sizes: Sizes, name: str, memory: float | None = None, machines: Machines | None = None
) -> tuple[Table, list[str]]:
    """(table with one row per stage, sentences to print below it). With several ranks, those of the first one."""
    device, machines = device_named(name), machines or Machines()
    several = machines.ranks > 1
    if several and not device.link:
        raise InputError(
            f"--device {name}: the rate of its connections is not known; with --ranks, choose {', '.join(DEVICES)}"
        )
    memory = device.memory if memory is None else memory
    sizes = replace(sizes, ranks=machines.ranks)
    step_stages = stages(sizes)
    work = [floor(stage, device) for stage in step_stages]
    wire = [transfer(stage.received, device, machines) for stage in step_stages]
    in_groups = f" in {sizes.groups} groups" if sizes.groups > 1 else ""
    on = f"{machines.ranks} ranks{in_groups} with {name}" if several else name
    grid = Table(title=f"one training step on {on}, lower bounds", title_justify="left")
    widest = max(len(word) for stage in step_stages for word in stage.name.split())
    last = ("received", "ms of work", "ms of transfer") if several else ("traffic", "Gflop", "min. ms")
    for heading in ("stage", "persistent", "temporary", *last):
        first = heading == "stage"
        grid.add_column(heading, justify="left" if first else "right", min_width=widest if first else None)
    for stage, seconds, waiting in zip(step_stages, work, wire, strict=True):
        if several:
            cells = readable(stage.received), f"{seconds * 1e3:.2f}", f"{waiting * 1e3:.2f}"
        else:
            cells = readable(stage.moved), f"{stage.operations / 1e9:.1f}", f"{seconds * 1e3:.2f}"
        grid.add_row(stage.name, readable(stage.persistent), readable(stage.temporary), *cells)
    held, most = readable(persistent_bytes(step_stages)), readable(peak(step_stages))
    fits, each = largest_catalogue(sizes, memory), " of a rank" if several else ""
    sentences = [f"a step takes at least {sum(work) * 1e3:.1f} ms; persistent memory {held}, peak {most}"]
    if several:
        received = readable(sum(stage.received for stage in step_stages))
        sentences = [
            f"a step takes at least {sum(work + wire) * 1e3:.1f} ms without overlap: {sum(work) * 1e3:.1f} ms of work "
            f"and {sum(wire) * 1e3:.1f} ms of transfer, at {device.link / 1e9:g} GB/s within a machine and "
            f"{device.network / 1e9:g} GB/s between machines",
            f"a rank receives {received} in a step; its persistent memory is {held}, its peak {most}",
        ]
        if in_epoch := [stage for stage in step_stages if stage.received_in_epoch]:
            parts = ", ".join(f"{readable(stage.received_in_epoch)} for {stage.name}" for stage in in_epoch)
            seconds = sum(transfer(stage.received_in_epoch, device, machines) for stage in in_epoch)
            sentences.append(f"at the start of an epoch, a rank receives {parts}: at least {seconds * 1e3:.1f} ms")
        if sizes.groups > 1:
            sentences.append("times of transfer are for equally many bytes from every other rank, whatever its group")
    return grid, [
        *sentences,
        f"the largest catalogue of this shape in {readable(memory)}{each}: {fits.users} users, {fits.items} items, "
        f"{fits.interactions} interactions",
        "memory counts tensors and the overhead of a CPU's allocator; it was within 15% of measured runs. Times are "
        "lower bounds computed from traffic and operations, not measurements",
    ]
