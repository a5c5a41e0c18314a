"""Starts processes with torchrun and collects the results of their cases."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def torchrun(n: int, *command: object, seconds: float = 90) -> subprocess.CompletedProcess:
    """Run `command` as n ranks with one thread each on the loopback interface. It is terminated after `seconds`."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return run([*start, *map(str, command)], seconds)


def environment() -> dict[str, str]:
    """One thread a rank, the loopback interface, the installed package wherever the tests are started from, and an
    error for what torch.distributed is about to drop."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error::FutureWarning",
    }


def run(
    command: list[str], seconds: float = 90, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """A command that starts ranks, with further environment variables."""
    environ = environment() | dict(variables or {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun passes it on
        out, err = process.communicate(timeout=40)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


class Start:
    """One run of the driver: the results of every rank, and the folder with its files."""

    def __init__(self, n: int, folder: Path, before: Path | None) -> None:
        self.n, self.folder = n, folder
        command = [str(HERE / "driver.py"), str(folder), *([str(before)] if before else [])]
        ended = run([sys.executable, *command]) if n == 1 else torchrun(n, *command, seconds=240)
        self.error = ended.stderr[:3000] if ended.returncode else ""
        self.ranks = [] if self.error else [json.loads((folder / f"{rank}.json").read_text()) for rank in range(n)]

    def part(self, name: str) -> list[dict]:
        """The results of every rank: "ops" or "runs"."""
        assert self.ranks, self.error
        return [rank[name] for rank in self.ranks]


BEFORE = {1: None, 4: 1, 3: 4, 2: 3}  # {ranks: number of ranks that wrote the interrupted run to resume}


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """started(n): the results of all cases on n ranks, which are run once."""

    @functools.cache
    def of(n: int) -> Start:
        before = BEFORE[n]
        return Start(n, tmp_path_factory.mktemp(f"ranks-{n}"), before and of(before).folder)

    return of
