"""Faults with several ranks: one line that names the rank, all processes end, and the earlier checkpoint remains."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launching import HERE, environment, run, with_fault
from mmssl_trainer.cli.main import main
from mmssl_trainer.training import checkpoints, state_file
from test_distributed_cli import FLAGS, MODULE, children, lines, only_line

pytestmark = pytest.mark.processes
TIMEOUT_MINUTES = 0.1


def started(folder, *arguments, ranks=2):
    """A launcher in a process group of its own, after the first checkpoint; and the processes of its ranks."""
    command = [*MODULE, "train", *FLAGS, "--epochs", "10000", "--out", str(folder), "--ranks", str(ranks), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    until = time.monotonic() + 120
    while not list(folder.glob("state/*/state.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    workers = children(process.pid)
    assert sorted(workers) == list(range(ranks))
    return process, workers


def gone(workers):
    return not any(Path(f"/proc/{pid}").exists() for pid in workers.values())


def test_a_rank_that_hangs(tmp_path):
    """The others name it after the timeout. It is killed, because a stopped process does not end by SIGTERM."""
    process, workers = started(tmp_path / "run", "--set", f"distributed.timeout_minutes={TIMEOUT_MINUTES}")
    os.kill(workers[1], signal.SIGSTOP)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1 and gone(workers), err
    named, ended = lines(err)
    assert named.startswith("mmssl-fast: rank 1 does not answer, it has ended or hangs (")
    assert ended == "mmssl-fast: rank 1 was ended by SIGKILL; the other ranks were ended as well"
    assert "Traceback" not in err and state_file.newest(tmp_path / "run" / "state")


def test_ctrl_c_in_the_terminal(tmp_path):
    """A terminal sends SIGINT to the process group of the command."""
    process, workers = started(tmp_path / "run")
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and gone(workers), err
    line = only_line(err)
    assert "interrupted" in line and "to resume: mmssl-fast train --resume" in line and "Traceback" not in err
    assert time.monotonic() - began < 30  # ten seconds on an idle machine


def test_a_full_disk_on_one_rank(tmp_path):
    """One line names the rank and the file. The checkpoint of epoch 1 remains, and the run can be resumed."""
    folder = tmp_path / "run"
    ended = with_fault("DISK", "train", *FLAGS, "--epochs", "3", "--out", str(folder))
    assert ended.stdout.endswith(", 2)\n"), ended.stderr
    line = only_line(ended.stderr)
    assert line.startswith("mmssl-fast: rank 1: ") and "rank-00001.safetensors: cannot be written (" in line
    assert "the checkpoint written after epoch 1 is kept" in line
    assert checkpoints.ranks_of_checkpoint(folder) == 2
    assert main(["train", "--resume", str(folder)]) == 0


def alone(variables, *settings):
    """The first of two ranks, started without a launcher."""
    command = [*MODULE, "train", *FLAGS, "--epochs", "1", *settings]
    command += ["--set", f"distributed.timeout_minutes={TIMEOUT_MINUTES}"]
    here = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    return run(command, variables=here | variables)


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


def test_a_rank_that_never_starts(tmp_path):
    ended = alone({"MASTER_PORT": free_port()}, "--out", str(tmp_path / "run"))
    assert ended.returncode == 2, ended.stderr
    line = only_line(ended.stderr)
    assert line.startswith(f"mmssl-fast: rank 0 of 2 could not join the others within {TIMEOUT_MINUTES} minutes (")
    assert "start all of them with the same MASTER_ADDR and MASTER_PORT" in line
    assert "Traceback" not in ended.stderr and not (tmp_path / "run").exists()


def test_a_port_in_use(tmp_path):
    with socket.socket() as held:
        held.bind(("0.0.0.0", 0))
        held.listen()
        ended = alone({"MASTER_PORT": str(held.getsockname()[1])}, "--out", str(tmp_path / "run"))
    assert ended.returncode == 2, ended.stderr
    line = only_line(ended.stderr)
    assert "rank 0 of 2 could not join the others" in line and "EADDRINUSE" in line
    assert "Traceback" not in ended.stderr and not (tmp_path / "run").exists()


@pytest.mark.parametrize("system", ["lightgcn", "mmssl"])
def test_more_ranks_than_items(tmp_path, system):
    """Three ranks for two items and one column: a rank has neither."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [f"{user},{user % 2},train" for user in range(5)] + ["0,1,val", "1,0,test"]
    (data / "interactions.csv").write_text("\n".join(["user,item,split", *rows]) + "\n")
    np.save(data / "image_feat.npy", np.eye(2, 3, dtype=np.float32))
    settings = {"model.dim": 2, "model.heads": 1, "train.epochs": 2, "train.batch": 4, "model.neighbours": 1}
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    out = tmp_path / "run"
    command = [*MODULE, "train", "--data", str(data), "--system", system, *flags, "--out", str(out), "--ranks", "3"]
    ended = run([*command, "--threads", "1", "--no-compare"])
    assert ended.returncode == 0, ended.stderr
    assert (out / "model.safetensors").is_file()
    if system == "lightgcn":
        lists_of_ranks(out, tmp_path / "lists")


def lists_of_ranks(model, folder):
    """recommend --ranks, and again into the same folder, which is refused before ranks are started."""
    command = [*MODULE, "recommend", str(model), "--ranks", "3", "--out", str(folder)]
    ended = run(command)
    assert ended.returncode == 0, ended.stderr
    assert len(list(folder.iterdir())) == 3
    refused = run(command)
    assert refused.returncode == 2
    assert lines(refused.stderr) == [f"mmssl-fast: {folder}: is not empty; give another folder with --out"]


@pytest.mark.parametrize(
    "what, difference",
    [
        ("TORCH", "torch is '2.11.0' on rank 1 and "),
        ("VERSION", "mmssl_fast is '0.1.9' on rank 1 and "),
        ("DATA", "the data's fingerprint is '"),
    ],
)
def test_a_rank_that_differs(tmp_path, what, difference):
    """Started by torchrun itself: one line names the rank, and all processes end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HERE / "different.py"), what, "train", *FLAGS, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    line = next(line for line in process.stderr if line.startswith("mmssl-fast: "))
    workers = children(process.pid)
    began = time.monotonic()
    _, rest = process.communicate(timeout=60)
    assert time.monotonic() - began < 30  # ten seconds on an idle machine
    assert process.returncode and gone(workers)
    assert difference in line and " on rank 1 and " in line, line
    assert line.endswith("start all ranks with the same versions, settings and data\n")
    assert not lines(rest) and not (tmp_path / "run").exists()


def interrupted_at_start(process, group):
    began = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 30, err  # ten seconds on an idle machine
    assert lines(err) == ["mmssl-fast: interrupted"] and "Traceback" not in err


def test_ctrl_c_while_ranks_start(tmp_path):
    """Both have been started and import their modules."""
    command = [*MODULE, "train", *FLAGS, "--out", str(tmp_path / "run"), "--ranks", "2"]
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment(), "start_new_session": True}
    process = subprocess.Popen(command, **options)
    workers, until = {}, time.monotonic() + 60
    while not (len(workers) == 2 and all(map(has_torch, workers.values()))) and time.monotonic() < until:
        workers = children(process.pid)
    assert len(workers) == 2
    interrupted_at_start(process, group=True)
    assert gone(workers)


def has_torch(pid):
    """Whether a process has begun to import torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def test_ctrl_c_while_a_rank_waits_for_the_others(tmp_path):
    """It waits in C++ for up to ten minutes, where Python's own handler is not called."""
    port = free_port()
    command = [*MODULE, "train", *FLAGS, "--out", str(tmp_path / "run")]
    here = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment() | here)
    until = time.monotonic() + 60
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", int(port))) and time.monotonic() < until:
            time.sleep(0.1)
    time.sleep(0.5)
    interrupted_at_start(process, group=False)
