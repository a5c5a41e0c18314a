"""The shapes of the benchmarks, and the comparison of a kernel with its peer.

A benchmark is a test that uses the fixture of pytest-benchmark and calls `compare` at its end. `compare` checks the
result before it measures, runs both in the same process in turns, and stores the measurements in extra_info.
"""

import ctypes
import gc
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from roofline import Work, device_seconds, floor_seconds
from torch.profiler import ProfilerActivity, profile

import mmssl_fast
from mmssl_fast.graph import InteractionGraph

CPU_RATES: list[tuple[float, float]] = []  # operations/s and bytes/s, once they are measured
DEVICE = torch.device(os.environ.get("MMSSL_FAST_BENCHMARK_DEVICE", "cpu"))


@dataclass(frozen=True)
class Shape:
    """A catalogue: numbers of users, items and interactions, and the widths of its modality features."""

    name: str
    users: int
    items: int
    interactions: int
    modalities: tuple[int, ...]

    def __str__(self) -> str:
        return self.name

    def graph(self, seed: int = 0) -> InteractionGraph:
        """A random graph of this size with item popularity 1 / rank, in which every user has an interaction."""
        random = np.random.default_rng(seed)
        items = random.permutation(self.items)
        share = 1 / np.arange(1, self.items + 1)
        share /= share.sum()
        pairs = np.empty(0, np.int64)  # user * items + item, distinct
        users = np.arange(self.users)
        while len(pairs) < self.interactions:
            drawn = items[random.choice(self.items, len(users), p=share)]
            pairs = np.unique(np.concatenate((pairs, users * self.items + drawn)))
            users = random.integers(0, self.users, self.interactions - len(pairs))
        return InteractionGraph.from_pairs(*np.divmod(pairs, self.items), self.users, self.items).to(DEVICE)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiktok", 9308, 6710, 59541, (128, 768)),
        Shape("baby", 19445, 7050, 139110, (4096, 1024)),
        Shape("sports", 35598, 18357, 256308, (4096, 1024)),
        Shape("50k", 50_000, 50_000, 1_000_000, (128, 64)),
        Shape("200k", 200_000, 200_000, 4_000_000, (128, 64)),
        Shape("1m", 1_000_000, 1_000_000, 20_000_000, (128, 64)),
    )
}


def shapes(most: str, quick: str = "sports") -> list:
    """The shapes of the registry up to `most`, as parameters of a benchmark. Those above `quick` are marked slow."""
    names = list(SHAPES)
    quick_ones, all_of_them = names.index(quick) + 1, names.index(most) + 1
    slow = [pytest.param(SHAPES[name], marks=pytest.mark.slow) for name in names[quick_ones:all_of_them]]
    return [SHAPES[name] for name in names[:quick_ones]] + slow


def compiled(function: Callable) -> Callable:
    """torch.compile of a dense formulation, with one graph per shape."""
    return torch.compile(function, dynamic=False)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal values from a seed, the same on every device."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    return values.to(DEVICE, dtype)


def permutation(n: int, seed: int = 0) -> torch.Tensor:
    """A random permutation of 0 to n − 1 from a seed, the same on every device."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed), device="cpu").to(DEVICE)


def compare(
    benchmark,
    ours: Callable,
    peer: Callable,
    check: Callable,
    *,
    shape: Shape,
    peer_name: str,
    rounds: int = 30,
    work: Work | None = None,
    **info,
) -> None:
    """Measures `ours` against `peer`, after `check(ours(), peer())`, which raises an error if they differ.

    The two run in turns. Every measured call follows a call of the same function that is not measured, so that the
    state of caches and freed memory that the other function leaves does not matter.

    It adds to extra_info: the ratios of the medians and of the best times (above 1 if ours is faster), the median of
    the peer in seconds, the peak memory of a call of each in bytes (of tensors, and on a Linux CPU also of the
    process), the shape, versions, instruction set and number of threads, `peer_name` and `info`. On CUDA, it also adds
    the device time of each, and with `work` the reached share of the roofline. With `work` on a CPU, it adds the least
    time at the rates of a product and a copy, which are measured at the first use.

    Times are those of the timer of pytest-benchmark. `--benchmark-timer=time.thread_time` with OMP_NUM_THREADS=1
    measures CPU time, for a busy machine.

    rounds: number of calls of each, after a warm-up, at most MMSSL_FAST_BENCHMARK_ROUNDS. With 0, only the
    results are checked.
    """
    check(ours(), peer())
    most = int(os.environ.get("MMSSL_FAST_BENCHMARK_ROUNDS", rounds))
    if most == 0:
        benchmark.pedantic(lambda: None, rounds=1)  # the report names what was checked
        return
    ours, peer = finished(ours), finished(peer)
    timer = benchmark._timer
    peer_times: list[float] = []

    def run_peer():
        peer()
        start = timer()
        peer()
        peer_times.append(timer() - start)
        ours()

    benchmark.extra_info |= {
        "shape": asdict(shape),
        "peak_bytes": peak_bytes(ours),
        "peer_peak_bytes": peak_bytes(peer),
        "grown_bytes": grown_bytes(ours),
        "peer_grown_bytes": grown_bytes(peer),
        "peer_name": peer_name,
        **environment(),
        **info,
    }
    if DEVICE.type == "cuda":
        benchmark.extra_info |= on_device(ours, peer, work)
    rounds = min(rounds, most)
    benchmark.pedantic(ours, setup=run_peer, rounds=rounds, iterations=1, warmup_rounds=min(3, most - 1))
    if benchmark.stats is None:  # --benchmark-disable: nothing was timed
        return
    peer_times = peer_times[-rounds:]
    times = benchmark.stats.stats.data
    benchmark.extra_info |= {
        "ratio": statistics.median(peer_times) / statistics.median(times),
        "ratio_of_best": min(peer_times) / min(times),
        "peer_median_s": statistics.median(peer_times),
    }
    if DEVICE.type == "cpu" and work is not None:
        floor = cpu_floor(work, timer)
        benchmark.extra_info |= {"work": asdict(work), "floor_s": floor, "roofline": floor / min(times)}


def finished(call: Callable) -> Callable:
    """A call that ends when the device has finished it."""

    def run():
        result = call()
        torch.cuda.synchronize()
        return result

    return run if DEVICE.type == "cuda" else call


def on_device(ours: Callable, peer: Callable, work: Work | None) -> dict:
    """The times by CUDA events, and the reached share of the roofline."""
    seconds, peer_seconds = device_seconds(ours), device_seconds(peer)
    found = {"device_s": seconds, "peer_device_s": peer_seconds, "device_ratio": peer_seconds / seconds}
    if work is not None:
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        found |= {"work": asdict(work), "tf32": tf32}
        floor = floor_seconds(work, torch.cuda.get_device_name(DEVICE), tf32)
        if floor is not None:
            found |= {"floor_s": floor, "roofline": floor / seconds}
    return found


def cpu_floor(work: Work, timer: Callable[[], float]) -> float:
    """The least time of `work`: its products at the rate of a float32 product of 1024 x 1024 x 1024, or its bytes at
    the rate of a copy of 128 MiB, if that takes longer. Both are measured with the number of threads that torch has."""
    if not CPU_RATES:
        a, source = torch.randn(1024, 1024), torch.randn(1 << 25)
        target = torch.empty_like(source)
        CPU_RATES.append(
            (2 * 1024**3 / best(lambda: a @ a, timer), 2 * source.nbytes / best(lambda: target.copy_(source), timer))
        )
    rate, bandwidth = CPU_RATES[0]
    return max(work.matrix_flops / rate, work.bytes / bandwidth)


def best(call: Callable, timer: Callable[[], float], repeats: int = 9) -> float:
    """The least time of several calls."""
    times = []
    for _ in range(repeats):
        start = timer()
        call()
        times.append(timer() - start)
    return min(times)


def environment() -> dict:
    """The environment of a measurement: versions, instruction set, threads and processor architecture."""
    return {
        "torch": torch.__version__,
        "mmssl_fast": mmssl_fast.__version__,
        "python": platform.python_version(),
        "isa": mmssl_fast.build_info()["isa"],
        "device": torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The name of the processor, on Linux."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def peak_bytes(call: Callable) -> int:
    """The peak memory of the tensors that are allocated during `call`, from torch's allocator."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())], dtype=np.int64)
    del result
    return int(held.max(initial=0))


def grown_bytes(call: Callable) -> int | None:
    """The growth of the peak resident memory of the process during `call`, in bytes, after the allocator has released
    free memory. None on a GPU, or if the system does not provide the peak."""
    if DEVICE.type != "cpu" or not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak to the current resident memory
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{name}:"))
