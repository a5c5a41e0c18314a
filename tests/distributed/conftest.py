"""Starts processes with torchrun and collects the results of their cases."""

import functools
import json
import sys
from pathlib import Path

import pytest
from launching import HERE, run, torchrun


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
