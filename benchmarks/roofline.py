"""The memory traffic and operations of a kernel, and the least time in which a machine could do them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Work:
    """The minimal work of a call: bytes to and from memory, operations on the matrix units, and other operations.

    The numbers are counted from the algebra. Every input is read once and every output is written once; float32 is 4
    bytes. Gathered rows count every time they are read, because at these sizes they come from memory, or from a cache
    with the same bandwidth.
    """

    bytes: float = 0.0
    matrix_flops: float = 0.0
    other_flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class Machine:
    """Peak rates: bytes/s of memory, and operations/s of the matrix units in TF32 (dense) and of the float32 units."""

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
    """The least time of `work` on the GPU with this name, or None if the GPU is unknown.

    A product with float32 accuracy takes three TF32 products. tf32: one product, if torch allows TF32.
    """
    machine = next((m for name, m in MACHINES.items() if name in device_name), None)
    if machine is None:
        return None
    products = work.matrix_flops * (1 if tf32 else 3)
    return max(work.bytes / machine.bandwidth, products / machine.tf32, work.other_flops / machine.float32)


def device_seconds(call, repeats: int = 20) -> float:
    """The median time between CUDA events around a call. Caches are not cleared between calls."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return sorted(times)[repeats // 2]
