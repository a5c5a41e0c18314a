"""The promise of RelationRows: nothing of the size B x I is allocated in a step, by Python or by C++."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from relation_memory import N_ITEMS, N_ROWS, step
from torch.profiler import ProfilerActivity, profile

BLOCK = N_ROWS * N_ITEMS * 4  # bytes of one [B, I] float32


@pytest.mark.processes
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure a process's peak"
)
@pytest.mark.parametrize("mode, tau", [("lazy", 0.1), ("lazy", 0.6), ("dense", 0.1)])
def test_a_step_stays_far_below_one_block(mode, tau):
    program = Path(__file__).with_name("relation_memory.py")
    done = subprocess.run([sys.executable, program, mode, str(tau)], capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    if mode == "lazy":
        assert peak < BLOCK / 2, f"peak {peak / 2**20:.0f} MiB, a block is {BLOCK / 2**20:.0f} MiB"
    else:
        assert peak > BLOCK, "the measurement does not see a [B, I] block"


@pytest.mark.parametrize("tau", [0.1, 0.6])
def test_no_single_tensor_comes_near_a_block(tau):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step("lazy", tau)
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    largest = max(e.nbytes() for e in events)
    assert 0 < largest < BLOCK / 8, f"a tensor of {largest / 2**20:.0f} MiB"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        torch.zeros(N_ROWS, N_ITEMS)
    assert max(e.nbytes() for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]") >= BLOCK
