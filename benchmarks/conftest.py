"""The fixtures of the benchmarks."""

from mmssl_trainer import threads

threads.configure()  # before torch is imported

import pytest
import torch
from registry import DEVICE, SHAPES, shapes

if DEVICE.type != "cpu":  # it costs every call of torch some microseconds
    torch.set_default_device(DEVICE)


@pytest.fixture(params=shapes("sports", quick="tiktok"), ids=str)
def shape(request):
    """Each published catalogue of the registry. A benchmark for other catalogues parametrizes `shape` itself."""
    return request.param


@pytest.fixture
def tiktok():
    """The smallest catalogue, for benchmarks with one size."""
    return SHAPES["tiktok"]


def pytest_terminal_summary(terminalreporter, config):
    """Prints the speed relative to the peer of every benchmark, after the table of pytest-benchmark."""
    session = getattr(config, "_benchmarksession", None)
    measured = [b for b in session.benchmarks if "ratio" in b.extra_info] if session else []
    if not measured:
        return
    terminalreporter.section("times faster than the peer (medians, best)")
    for benchmark in measured:
        info = benchmark.extra_info
        terminalreporter.write_line(
            f"{benchmark.name:60s} {info['ratio']:7.2f} {info['ratio_of_best']:7.2f}   peer: {info['peer_name']}"
        )
