"""mmssl-fast with several ranks: killed and interrupted processes, and invalid arguments."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import HERE, environment, run, with_fault
from logged import NEEDED, expected, in_tensorboard
from mmssl_trainer import configure, load, load_data, prepare_data
from mmssl_trainer.cli import launch
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load as load_config
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.runs.folder import read_epochs, read_result
from mmssl_trainer.training import loop
from mmssl_trainer.training.checkpoints import Checkpoints

pytestmark = pytest.mark.processes

SETTINGS = {"model.system": "lightgcn", "model.dim": 8, "train.checkpoint_every": 1}
FLAGS = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
FLAGS += ["--threads", "1", "--no-compare"]
MODULE = [sys.executable, "-P", "-m", "mmssl_trainer"]


def lines(text):
    return [line for line in text.splitlines() if line.startswith("mmssl-fast: ")]


def only_line(text):
    found = lines(text)
    assert len(found) == 1, text
    return found[0]


@functools.cache
def uninterrupted(epochs: int):
    """The same run in one process."""
    return loop.fit(load_data(), configure(SETTINGS | {"train.epochs": epochs, "train.threads": 1}))


def test_a_killed_rank_and_a_restart(tmp_path):
    """Rank 1 is killed in epoch 2. All ranks restart, and the result is bit-identical to an uninterrupted run of one
    process. The graph is divided between the two."""
    command = [
        sys.executable,
        str(HERE / "faulty.py"),
        "KILL",
        "train",
        *FLAGS,
        "--epochs",
        "3",
        "--set",
        "distributed.groups=2",
        "--out",
        str(tmp_path / "run"),
    ]
    start = "import sys; from mmssl_fast.distributed.ranks import launch; print(launch(2, sys.argv[1:], restarts=1))"
    ended = run([sys.executable, "-c", start, *command], seconds=240)
    assert "(0, 0)" in ended.stdout, ended.stderr
    assert "note: resumed from the checkpoint written after epoch 1" in ended.stderr
    fit = uninterrupted(3)
    model = load(tmp_path / "run")
    assert model.users.equal(fit.users) and model.items.equal(fit.items)
    assert [one["losses"] for one in read_epochs(tmp_path / "run")] == [one["losses"] for one in fit.epochs]
    assert read_result(tmp_path / "run")["val"] == fit.val


def test_a_rank_out_of_memory(tmp_path):
    """One line names the rank. The step is not repeated, all ranks end, and the run resumes in one process."""
    folder = tmp_path / "run"
    ended = with_fault("MEMORY", "train", *FLAGS, "--epochs", "3", "--out", str(folder))
    assert ended.stdout.endswith(", 1)\n"), ended.stderr
    line = only_line(ended.stderr)
    assert line.startswith("mmssl-fast: rank 1: out of memory in epoch 2, step 4 of 9, CUDA out of memory. Tried to ")
    assert main(["train", "--resume", str(folder)]) == 0
    assert [one["losses"] for one in read_epochs(folder)] == [one["losses"] for one in uninterrupted(3).epochs]


def test_an_error_on_one_rank_of_a_resumed_run(tmp_path):
    """The rank that fails says so, as it does in a new run."""
    folder = tmp_path / "run"
    assert main(["train", *FLAGS, "--epochs", "1", "--out", str(folder)]) == 0
    ended = with_fault("MEMORY", "train", "--resume", str(folder), "--epochs", "4")
    line = only_line(ended.stderr)
    assert line.startswith("mmssl-fast: rank 1: out of memory in epoch 3, step 4 of 9, CUDA out of memory. Tried to ")


def test_groups_are_chosen_by_the_memory_of_a_rank(tmp_path):
    """What is chosen is in the log and in config.toml, and the model has the bits of one process."""
    source, data = tmp_path / "source", tmp_path / "data"
    write_plain(synthetic(n_users=300, n_items=250, mean_degree=120), source, "parquet")
    prepare_data(source, data)
    flags = [*FLAGS, "--data", str(data), "--epochs", "2", "--batch", "512"]
    flags += ["--set", "distributed.groups=auto"]
    ended = run([*MODULE, "train", *flags, "--memory", "1GiB", "--out", str(tmp_path / "whole"), "--ranks", "2"])
    assert 'note: distributed.groups = "auto": 1, because a rank with the whole graph needs about ' in ended.stderr
    ended = run([*MODULE, "train", *flags, "--memory", "500KiB", "--out", str(tmp_path / "none"), "--ranks", "2"])
    assert only_line(ended.stderr).startswith("mmssl-fast: data: with any number of groups, each of the 2 ranks needs ")
    assert not (tmp_path / "none").exists()
    # Between what a rank needs with two groups, 0.98 MiB, and with the whole graph, 2.06 MiB.
    ended = run([*MODULE, "train", *flags, "--memory", "1.4MiB", "--out", str(tmp_path / "two"), "--ranks", "2"])
    assert 'note: distributed.groups = "auto": 2, because a rank with the whole graph would need ' in ended.stderr
    assert [load_config(tmp_path / name / "config.toml").distributed.groups for name in ("whole", "two")] == [1, 2]
    assert main(["train", *flags, "--out", str(tmp_path / "one")]) == 0
    expected = load(tmp_path / "one")
    for name in ("whole", "two"):
        model = load(tmp_path / name)
        assert model.users.equal(expected.users) and model.items.equal(expected.items)


def test_one_process_imports_nothing_more():
    """Of torch.distributed, what torch imports itself; there is no process group."""
    code = """if True:
        import sys, torch
        before = set(sys.modules)
        from mmssl_trainer import configure, fit, load_data
        for system in ("lightgcn", "mmssl"):
            fit(load_data(), configure({"model.system": system, "train.epochs": 1, "train.batch": 4096}))
        print([name for name in set(sys.modules) - before if name.startswith("torch.distributed")])
        print(torch.distributed.is_initialized())"""
    assert run([sys.executable, "-W", "ignore", "-c", code]).stdout.split("\n")[:2] == ["[]", "False"]


def children(pid: int) -> dict[int, int]:
    """{rank: pid} of the processes that a launcher started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            status = (path.parent / "stat").read_text().rpartition(")")[2].split()
            if int(status[1]) == pid:
                variables = dict(part.partition("=")[::2] for part in path.read_text().split("\0"))
                found[int(variables["RANK"])] = int(path.parent.name)
        except (OSError, KeyError):
            continue
    return found


@pytest.mark.parametrize("what", ["launcher terminated", "rank killed"])
def test_ended_from_outside(tmp_path, what):
    """One line describes what happened, and there is a complete checkpoint."""
    folder = tmp_path / "run"
    command = [*MODULE, "train", *FLAGS, "--epochs", "10000", "--out", str(folder), "--ranks", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 120
    while not list(folder.glob("state/*/state.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    workers = children(process.pid)
    assert sorted(workers) == [0, 1]
    if what == "rank killed":
        os.kill(workers[1], signal.SIGKILL)
    else:
        process.terminate()
    _, err = process.communicate(timeout=60)
    if what == "rank killed":
        assert process.returncode == 1
        assert "mmssl-fast: rank 1 was ended by SIGKILL; the other ranks were ended as well" in lines(err)
    else:
        assert process.returncode == 143
        line = only_line(err)
        assert "interrupted in epoch" in line or "interrupted after epoch" in line
        assert f"to resume: mmssl-fast train --resume {folder}" in line
    assert "Traceback" not in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers.values())
    config = load_config(folder / "config.toml")
    checkpoints = Checkpoints(folder, load_data(), config)
    assert checkpoints.open() and checkpoints.last.split()[-1] != "0"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--ranks", "0"], "--ranks 0: must be between 1 and 1024"),
        (["evaluate", "RUN", "--ranks", "2000"], "--ranks 2000: must be between 1 and 1024"),
    ],
)
def test_a_wrong_number_of_ranks(arguments, message, capsys):
    assert main(arguments) == 2
    assert lines(capsys.readouterr().err) == [f"mmssl-fast: {message}"]


def test_ranks_within_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main(["train", "--ranks", "2"]) == 2
    assert lines(capsys.readouterr().err) == ["mmssl-fast: --ranks and torchrun exclude each other; leave out --ranks"]
    assert main(["doctor"]) == 2
    assert "mmssl-fast doctor works with one process only" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")  # the others print nothing
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == ""


def test_mistakes_are_one_line_of_one_rank(tmp_path, monkeypatch):
    """A system that can only be trained by one process. With --ranks, torchrun's own traceback does not appear.

    The current folder contains another mmssl_fast, like the source folder; every rank imports the installed one.
    """
    (tmp_path / "mmssl_fast").mkdir()
    (tmp_path / "mmssl_fast" / "__init__.py").write_text("raise ImportError('not the installed package')")
    monkeypatch.chdir(tmp_path)
    command = [*MODULE, "train", "--ranks", "2", "--system", "ngcf", "--out", str(tmp_path / "run")]
    ended = run(command, variables={"PYTHONSAFEPATH": ""})
    assert ended.returncode == 2
    line = only_line(ended.stderr)
    assert "model.system = 'ngcf': NGCF can be trained by one process only; leave out --ranks or torchrun, or" in line
    assert line.endswith("mmssl, popularity, mf, lightgcn, sgl, ncl") and "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_arguments_of_the_started_processes():
    given = ["train", "--ranks", "3", "--out", "x", "--set", "a=b"]
    assert launch.without_ranks(given) == ["train", "--out", "x", "--set", "a=b"]
    assert launch.without_ranks(["train", "--ranks=3"]) == ["train"]


def test_only_rank_0_writes_the_log(tmp_path):
    """With the values of the run folder, each once."""
    pytest.importorskip("tensorboard", reason=NEEDED)
    options = ["--set", "train.log_to=tensorboard", "--epochs", "2", "--ranks", "2", "--out", str(tmp_path / "run")]
    ended = run([*MODULE, "train", *FLAGS, *options], seconds=240)
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    found, wanted = in_tensorboard(tmp_path / "run"), expected(tmp_path / "run")
    assert found.keys() == wanted.keys() | {"seconds"}
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
