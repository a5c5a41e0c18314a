"""benchmarks/soak.py: what it calls flat, and the soak itself with -m soak."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "soak.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples(memory, files=(9,), threads=(3,)):
    return [(one * MIB, files[at % len(files)], threads[at % len(threads)]) for at, one in enumerate(memory)]


@pytest.mark.parametrize(
    "found, bad",
    [
        (samples([400] * 20), []),
        (samples([400, 402, 399, 405, 407]), []),
        (samples([400] * 4 + [900] + [400] * 15), []),
        (samples(range(400, 420)), ["memory grew by 4.0%, from 421003264 to 437780480 bytes"]),
        (samples([400] * 20, files=range(20)), ["files grew from 1.5 to 17.5"]),
        (samples([400] * 5, threads=(3, 3, 3, 3, 4)), ["threads grew from 3 to 4"]),
        (samples([400, 300, 200, 100, 50], files=(9, 8, 7, 6, 5)), []),
    ],
)
def test_what_is_flat(soak, found, bad):
    assert soak.flat(soak.compared(found)) == bad


@pytest.mark.slow
def test_a_leak_is_found(soak):
    """Lives that each keep 40 MiB more."""
    found = soak.soak(minutes=0, users=60, items=40, seed=1, leak=40 * MIB)
    assert found["lives"] >= 7 and any(one.startswith("memory grew by") for one in found["bad"]), found


@pytest.mark.soak
def test_long_life_is_flat():
    """MMSSL_FAST_SOAK_MINUTES, by default two hours."""
    minutes = os.environ.get("MMSSL_FAST_SOAK_MINUTES", "120")
    command = [sys.executable, "-P", str(PROGRAM), "--minutes", minutes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["interrupted"] > 0 and not found["bad"], found
