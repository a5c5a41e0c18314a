"""The benchmarks' own rules: a wrong result is not reported, and what is slow runs only where it is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MADE_UP = """
import torch
from registry import SHAPES, compare


def measure(benchmark, ours):
    peer = torch.ones(3)
    compare(benchmark, lambda: ours, lambda: peer, torch.testing.assert_close, shape=SHAPES["tiktok"], peer_name="peer")


def test_right(benchmark):
    measure(benchmark, torch.ones(3))


def test_memory(benchmark):
    ours, peer = lambda: torch.ones(1 << 20), lambda: torch.ones(1 << 24)[: 1 << 20] + 0
    compare(benchmark, ours, peer, torch.testing.assert_close, shape=SHAPES["tiktok"], peer_name="16 times as much")


def test_wrong(benchmark):
    measure(benchmark, torch.tensor([1.0, 1.0, 1.001]))
"""


def pytest_in(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS), "MMSSL_FAST_BENCHMARK_ROUNDS": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.processes
@pytest.mark.usefixtures("alone")
def test_benchmark_with_a_wrong_result_fails_and_is_not_reported(tmp_path):
    (tmp_path / "bench_made_up.py").write_text(MADE_UP)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = pytest_in(tmp_path, "--benchmark-only", "--benchmark-json=found.json", "bench_made_up.py")
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    right, memory = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    assert (right["name"], memory["name"]) == ("test_right", "test_memory") and right["extra_info"]["ratio"] > 0
    found = memory["extra_info"]
    assert found["peak_bytes"] == 1 << 22 and found["peer_peak_bytes"] // 2**20 == 64 + 4
    if found["grown_bytes"] is not None:
        assert found["grown_bytes"] < 1 << 23 < 1 << 26 < found["peer_grown_bytes"] < 1 << 27


@pytest.mark.processes
@pytest.mark.usefixtures("alone")
def test_large_shapes_are_slow():
    done = pytest_in(BENCHMARKS.parent, "--collect-only", "--benchmark-only", str(BENCHMARKS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[tiktok" in done.stdout and not any(f"[{name}" in done.stdout for name in ("50k-", "200k", "1m", "200000"))
