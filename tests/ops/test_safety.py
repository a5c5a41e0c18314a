"""No call from Python crashes the process: every op, hostile arguments, in a child process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl_fast import InteractionGraph

PROGRAM = Path(__file__).parents[1] / "fuzz" / "ops.py"
EXAMPLES = int(os.environ.get("MMSSL_FAST_FUZZ", "25"))


def test_no_call_crashes_the_process(tmp_path):
    """A segmentation fault, a hang or an unexpected exception is a failure that names the op, the call and the seed."""
    journal = tmp_path / "journal"
    command = [
        sys.executable,
        "-P",
        str(PROGRAM),
        "--examples",
        str(EXAMPLES),
        "--seed",
        "0",
        "--journal",
        str(journal),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = journal.read_text().strip() if journal.exists() else "before the first call"
    assert done.returncode == 0, f"exit code {done.returncode}, last call: {last}\n{done.stdout}{done.stderr[-2000:]}"


def test_rows_beyond_memory_are_refused_before_they_are_walked():
    g, weight, one, kept = torch.ones(3, 2), torch.ones(2, 5), torch.ones(3), torch.ones(3, 0)
    many = torch.zeros((), dtype=torch.bool).expand(2**40)
    with pytest.raises(ValueError, match=r"gradient_norm_bwd: streamed must be \[3\], got \[1099511627776\]"):
        torch.ops.mmssl_fast.gradient_norm_bwd(one, g, weight, one, many, kept, "float32")


ARRAYS = {
    "crow": [0, 2, 2, 3],
    "col": [0, 3, 1],
    "t_crow": [0, 1, 2, 2, 3],
    "t_col": [0, 2, 0],
}


def graph(**changes):
    """3 users, 4 items: (0, 0), (0, 3), (2, 1)."""
    arrays = {name: torch.tensor(values) for name, values in ARRAYS.items()} | changes
    sizes = {"n_users": arrays.pop("n_users", 3), "n_items": arrays.pop("n_items", 4)}
    values = {name: arrays.pop(name, None) for name in ("value", "t_value")}
    return InteractionGraph(arrays["crow"], arrays["col"], arrays["t_crow"], arrays["t_col"], **sizes, **values)


def test_sound_arrays_make_a_graph():
    made = graph(value=torch.ones(3), t_value=torch.ones(3))
    assert (made.n_users, made.n_items, made.nnz) == (3, 4, 3) and made.user_degree.tolist() == [2, 0, 1]
    none = torch.zeros(0, dtype=torch.int32)
    assert graph(crow=torch.zeros(4, dtype=torch.int64), t_crow=torch.zeros(5, dtype=torch.int64), col=none, t_col=none)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"col": [0, 4, 1]}, r"col must lie in \[0, 4\), got indices from 0 to 4"),
        ({"col": [0, -1, 1]}, r"col must lie in \[0, 4\), got indices from -1 to 1"),
        ({"t_col": [0, 3, 0]}, r"t_col must lie in \[0, 3\), got indices from 0 to 3"),
        ({"col": [3, 0, 1]}, "col must be ascending within a row, but entry 1"),
        ({"col": [3, 3, 1]}, "col must be ascending within a row, but entry 1"),
        ({"crow": [0, 3, 2, 3]}, "crow must be non-decreasing from 0 to nnz = 3"),
        ({"crow": [1, 2, 2, 3]}, "crow must be non-decreasing from 0"),
        ({"crow": [0, 2, 2, 9]}, "crow must be non-decreasing from 0"),
        (
            {"crow": [0, 2**63 - 1, -2, 3]},
            "crow must be non-decreasing from 0",
        ),  # whose differences wrap to positive ones
        ({"crow": [0, 2, 3]}, r"crow must be contiguous int64 \[4\]"),
        ({"crow": [0.0, 2.0, 2.0, 3.0]}, "int64"),
        ({"crow": []}, "crow must be contiguous"),
        ({"col": [0.0, 3.0, 1.0]}, "int32 or int64"),
        ({"col": [[0, 3, 1]]}, r"\[nnz\]"),
        ({"t_col": [0, 2]}, "t_crow must be non-decreasing from 0 to nnz = 2"),
        ({"t_crow": [0, 0, 2, 2, 3]}, "node 0 occurs 1 times in .*col, but has 0 entries according to t_crow"),
        (
            {"t_crow": [0, 1, 2, 2, 3], "t_col": [1, 2, 0]},
            "node 0 occurs 1 times in t_col, but has 2 entries according to crow",
        ),
        ({"value": [1.0, 1.0], "t_value": [1.0, 1.0, 1.0]}, "values must be float32"),
        ({"value": [1.0, 1.0, 1.0]}, "both or neither of value and t_value"),
        ({"n_users": -1}, "crow must be contiguous"),
        ({"n_items": 10**18}, "t_crow must be contiguous"),
    ],
)
def test_graph_that_is_not_one_is_refused_at_construction(changes, part):
    tensors = {name: one if name.startswith("n_") else torch.tensor(one) for name, one in changes.items()}
    with pytest.raises(ValueError, match=rf"InteractionGraph: .*{part}"):
        graph(**tensors)


@pytest.mark.parametrize(
    "users, error, part",
    [
        ([-1], IndexError, r"must lie in \[0, 3\), got ids from -1 to -1"),
        ([0, 3], IndexError, r"must lie in \[0, 3\), got ids from 0 to 3"),
        ([[0]], ValueError, r"integer tensor \[B\], got torch.int64 \(1, 1\)"),
        ([0.5], ValueError, r"got torch.float32"),
        ([True, False, True], ValueError, r"got torch.bool"),
    ],
)
def test_rows_of_users_that_are_none_are_refused(users, error, part):
    assert graph().rows(torch.tensor([0], dtype=torch.int32)).col.tolist() == [0, 3]
    with pytest.raises(error, match=rf"InteractionGraph\.rows: users .*{part}"):
        graph().rows(torch.tensor(users))


def test_graph_on_two_devices_is_refused():
    with pytest.raises(ValueError, match="must be on the same device"):
        graph(col=torch.tensor(ARRAYS["col"], device="meta"))
