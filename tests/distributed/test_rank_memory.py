"""The plan of a rank against short runs of one to four ranks."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--users", "16000", "--items", "16000", "--interactions", "60000", "--batch", "512"]


def run(ranks: list[str], systems: list[str]) -> None:
    command = [sys.executable, "-P", str(BENCHMARKS / "ranks.py"), "--ranks", *ranks, "--systems", *systems]
    done = subprocess.run([*command, *SIZES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "system",
    [
        *(pytest.param(one, marks=pytest.mark.processes) for one in ("lightgcn", "mmssl")),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("mf", "popularity", "ncl", "sgl")),
    ],
)
def test_memory_and_bytes_of_a_rank_are_those_of_the_plan(system):
    """The slope of memory against 1/P within 10%, the bytes of a step and of the start of an epoch within 5%."""
    run(["1", "4"], [system])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "system",
    [
        pytest.param("mmssl", marks=pytest.mark.processes),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("sgl", "ncl")),
    ],
)
def test_bytes_of_groups_are_those_of_the_plan(system):
    run(["4/2"], [system])


def test_a_wrong_plan_is_reported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    missed = importlib.import_module("ranks").missed
    right = {"received": 100, "planned": 100, "in_epoch": 50, "planned_in_epoch": 50, "groups": 1}
    mib = 1 << 20
    rows = [{**right, "ranks": p, "memory": (10 + 90 / p) * mib, "live": (20 + 85 / p) * mib} for p in (1, 2, 4)]
    assert missed(rows) == []
    assert len(missed([{**row, "live": 70 * mib / row["ranks"]} for row in rows])) == 1
    assert len(missed([*rows, {**right, "ranks": 4, "groups": 2, "planned_in_epoch": 47, "memory": 0, "live": 0}])) == 1
    assert len(missed([{**right, "ranks": 2, "planned": 94, "memory": 0, "live": 0}])) == 1
