"""What a kernel must move and compute, and what the machine could do in that time."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Work:
    """The least a call has to do: bytes to and from memory, flops on the matrix units, other operations.

    Counted by hand from the algebra, each input read once and each output written once; float32 is 4 bytes. Gathered
    rows count every time they are read: at these sizes they come from memory or from a cache of its bandwidth.
    """

    bytes: float = 0.0
    matrix_flops: float = 0.0
    other_flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class Machine:
    """Peak rates: bytes/s of memory, flops/s of the matrix units in TF32 (dense) and of the float32 units."""

    bandwidth: float
    tf32: float
    float32: float


# NVIDIA's data sheets (H100 and H200 SXM, A100 SXM 80 GB): dense rates, without sparsity.
MACHINES = {
    "H100": Machine(3.35e12, 494e12, 67e12),
    "H200": Machine(4.8e12, 494e12, 67e12),
    "A100": Machine(2.04e12, 156e12, 19.5e12),
}


def floor_seconds(work: Work, device_name: str, tf32: bool) -> float | None:
    """The least time of `work` on a GPU of that name, or None for an unknown one.

    A float32-accurate product takes three TF32 ones; tf32: one, where torch's switch allows it.
    """
    machine = next((m for name, m in MACHINES.items() if name in device_name), None)
    if machine is None:
        return None
    products = work.matrix_flops * (1 if tf32 else 3)
    return max(work.bytes / machine.bandwidth, products / machine.tf32, work.other_flops / machine.float32)


def device_seconds(call, repeats: int = 20) -> float:
    """The median time between CUDA events around a call, caches as the call before left them."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[repeats // 2]
