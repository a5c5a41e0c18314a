"""Runs that are killed, stopped by a signal, or at the end of the disk; what the tests of checkpoints share.

    python -P tests/trainer/training/checkpoint_runs.py FOLDER KILLS SEED

does all three and prints what came of it as one line of JSON. One process is forked for each attempt from one that has
imported everything, so that the moments fall into training and writing, not into the start of Python.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch._dynamo  # an optimiser's first step imports it
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.runs import folder as run_folder  # noqa: F401
from mmssl_trainer.training import checkpoints as checkpoint
from mmssl_trainer.training import state_file
from safetensors.torch import load_file

SETTINGS = [
    "--system",
    "mmssl",
    "--batch",
    "64",
    "--threads",
    "1",
    "--set",
    "model.dim=8",
    "--set",
    "model.hidden=[16, 8]",
    "--set",
    "train.sample_over=interactions",
]
OFTEN = ["--set", "train.checkpoint_minutes=1e-9"]


def catalogue(path):
    """A folder in the plain layout: 80 users, 50 items, two modalities, ids of its own."""
    data = synthetic(seed=4, n_users=80, n_items=50, modalities={"image": 6, "text": 5})
    return write_plain(type(data)(**{**vars(data), "item_ids": np.arange(50) + 100}), path)


def begin(data, run, *more):
    """The arguments of a training run."""
    return ["train", "--data", str(data), "--out", str(run), *SETTINGS, *more]


def forked(arguments, meanwhile=None, largest_file=None):
    """mmssl-fast in a fork of this process: (exit code, −9 where it was killed; what it wrote on stderr).

    meanwhile(process id) is called as it runs; no file may grow beyond largest_file bytes.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(writer, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        os._exit(main(arguments))
    os.close(writer)
    if meanwhile is not None:
        meanwhile(process)
    with open(reader) as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def same_model(one, other):
    """Whether two run folders hold the same tensors, to the bit."""
    ours, theirs = (load_file(run / "model.safetensors") for run in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def kill_and_resume(folder, kills, seed):
    """{"kills", "steps" of the newest state after each where there was one, "finished": how often the run was quicker,
    "same": whether the model at the end is the uninterrupted one's}."""
    moments = random.Random(seed)
    data, whole, broken = folder / "data", folder / "whole", folder / "broken"
    started = time.monotonic()
    assert forked(begin(data, whole, "--epochs", "5"))[0] == 0
    longest = time.monotonic() - started
    fresh = begin(data, broken, "--epochs", "5", *OFTEN)
    arguments, steps, killed, finished = fresh, [], 0, 0

    def kill(process):
        time.sleep(moments.uniform(0.02, 0.6 * longest))
        os.kill(process, signal.SIGKILL)

    while killed < kills:
        code, said = forked(arguments, kill)
        if code == 0:
            finished += 1
            arguments = [*fresh, "--overwrite"]
            continue
        assert code == -signal.SIGKILL, said
        killed += 1
        newest = state_file.newest(broken / checkpoint.FOLDER)
        if newest is not None:
            steps.append(state_file.read(newest).body["step"])
        if (broken / "config.toml").exists():
            arguments = ["train", "--resume", str(broken)]
    code, said = forked(arguments)
    assert code == 0, said
    return {"kills": killed, "steps": steps, "finished": finished, "same": same_model(whole, broken)}


def stop(folder, number):
    """[exit code, stderr, step of the newest state, exit code of resuming] of an endless run that gets the signal."""
    run = folder / f"stopped-{number}"

    def signalled(process):
        while not (run / "model.safetensors").exists():
            time.sleep(0.05)
        os.kill(process, number)

    code, said = forked(begin(folder / "data", run, "--epochs", "100000"), signalled)
    step = state_file.read(state_file.newest(run / checkpoint.FOLDER)).body["step"]
    return [code, said, step]


def fill_disk(folder, largest_file):
    """[exit code, stderr, temporary files left] of a run in which no file may grow beyond so many bytes."""
    run = folder / f"full-{largest_file}"
    code, said = forked(begin(folder / "data", run, "--epochs", "3", *OFTEN), largest_file=largest_file)
    return [code, said, [str(one) for one in run.rglob("*.tmp")]]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    catalogue(place / "data")
    found = {
        "killed": kill_and_resume(place, int(sys.argv[2]), int(sys.argv[3])),
        "stopped": {str(code): stop(place, code) for code in (signal.SIGINT, signal.SIGTERM)},
        "full": {str(size): fill_disk(place, size) for size in (300, 20_000)},
    }
    print(json.dumps(found))
