"""benchmarks/clients: a made-up client is run in turns, each side in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parents[1] / "benchmarks" / "clients"
MADE_UP = """
import torch
from driver import Client


class MadeUp(Client):
    name = "made up"

    def write(self, data):
        (self.folder / "users").write_text(str(data.n_users))

    def start(self):
        self.users = int((self.folder / "users").read_text())
        self.matrix = torch.eye(900).to_sparse()

    def epoch(self):
        return {"loss": float(torch.sparse.mm(self.matrix, torch.full((900, 64), float(self.users))).sum())}

    def evaluate(self):
        return {"recall": self.users / 100}


CLIENT = MadeUp
"""


@pytest.fixture
def run(tmp_path):
    for name in ("command_line.py", "driver.py", "run.py"):
        (tmp_path / name).write_text((CLIENTS / name).read_text())

    def run(*arguments):
        (tmp_path / "made_up.py").write_text(MADE_UP)
        command = [sys.executable, "-P", str(tmp_path / "run.py"), "made_up", str(tmp_path), "--users", "40"]
        command += ["--items", "30", "--turns", "2", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("evaluations", [0, 1])
def test_turns_with_and_without_evaluations(run, evaluations):
    done = run("--evaluations", str(evaluations), "--sides", "own,sparse")
    assert done.returncode == 0, done.stderr
    assert "made up: 40 users, 30 items" in done.stdout
    assert "loss 2304000 at first, 2304000 at last; relative difference 0.0e+00" in done.stdout
    assert ("evaluation, CPU s" in done.stdout) == (evaluations > 0)
    assert ("1 metrics differ by at most 0.0e+00 (recall 0.4)" in done.stdout) == (evaluations > 0)


MISTAKES = {
    "--turns 0": "argument --turns: there must be at least one",
    "--users 0": "argument --users: there must be at least one",
    "--evaluations -1": "argument --evaluations: must not be negative",
    "--sides own,own,sparse": "argument --sides: own is named twice; for the unchanged client once more, use",
    "--sides own,": "argument --sides: '' is no name of a side",
    "--sides own,a/b": "argument --sides: 'a/b' is no name of a side",
    "--set threads": "argument --set: 'threads' is not KEY=VALUE",
    "--set threads=two": "argument --set: threads=two: threads must be a number from 1",
    "--set own2.threads=2": "argument --set: own2.threads: the sides are own, sparse, full",
    "--data missing": "argument --data: there is no folder missing",
    "--json missing/figures.json": "argument --json: cannot write missing/figures.json",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_command_is_one_line(run, mistake):
    done = run(*mistake.split())
    assert done.returncode == 2 and not done.stdout
    assert MISTAKES[mistake] in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_data_that_cannot_be_read_are_one_line(run, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("--data", str(tmp_path / "empty"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("the data cannot be read: ")


@pytest.fixture
def every(monkeypatch):
    monkeypatch.syspath_prepend(str(CLIENTS))
    yield __import__("every")
    sys.modules.pop("every")


def test_every_row_has_a_driver_and_one_name(every):
    assert {row.client for row in every.ROWS} <= {path.stem for path in CLIENTS.glob("*.py")}
    assert len({row.project for row in every.ROWS}) == len(every.ROWS)


def test_a_row_of_the_table(every, monkeypatch):
    """Ratios of medians, of the fastest evaluations, and the largest difference of a loss."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    side = lambda turns, ends, loss: {  # noqa: E731
        "turns": [{"cpu": cpu, "wall": 9.0, "losses": {"loss": loss}} for cpu in turns],
        "evaluations": [{"cpu": cpu} for cpu in ends],
    }
    result = {
        "own": side([4, 8, 6], [3, 2], 2.0),
        "own2": side([5, 6, 7], [2, 4], 2.0),
        "sparse": side([3, 3, 9], [1, 2], 2.0),
        "full": side([1, 2, 3], [0.5, 1], 2.5),
    }
    row = every.Row("A", "a", "a", True, True)
    assert every.line(row, result) == (
        "| A | 2.00x (1.00x) | 3.00x, 3.20x with one evaluation | 2.00x (1.00x); 4.00x with `accelerate` | 2.5e-01 |"
    )
    del result["full"]
    for found in result.values():
        found["evaluations"] = [{}]
    assert every.line(row, result) == "| A | 2.00x (1.00x) |  |  | equal |"


def test_every_without_checkouts(tmp_path):
    """What is not there is named, and the table is empty."""
    command = [sys.executable, "-P", str(CLIENTS / "every.py"), str(tmp_path), str(tmp_path), "--only", "pygcn"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == f"pygcn: left out, there is no {tmp_path / 'pygcn'}\n"
    assert "| pygcn" not in done.stdout
