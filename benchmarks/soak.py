"""A soak test: trains, interrupts, resumes, evaluates and recommends in a loop, and monitors memory, files and threads.

    python -P benchmarks/soak.py --minutes 120 [--users 300 --items 200]

A life is a training run of the command line that is interrupted by signals at random steps and resumed until it is
complete, and then evaluated and used for recommendations. After a warm-up of a tenth of the time, resident memory, open
files and threads are measured after every life. The test fails if the median memory of the last fifth is more than 2%
above that of the first fifth, if files or threads have increased at all, or if two lives with the same seed give
different models. Prints a line of JSON.
"""

import argparse
import contextlib
import gc
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmssl_trainer.cli import app  # noqa: F401
from mmssl_trainer.cli.main import main as command
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.training import checkpoints as checkpoint
from safetensors.torch import load_file

GROWTH = 0.02
SETTINGS = [
    "--threads",
    "1",
    "--batch",
    "64",
    "--epochs",
    "3",
    "--set",
    "model.dim=8",
    "--set",
    "model.hidden=[16, 8]",
    "--set",
    "train.sample_over=interactions",
    "--set",
    "train.checkpoint_minutes=1e-9",
]


class Interruption:
    """Sends SIGINT to this process at a random step of a training run, and records whether it did."""

    def __init__(self, draw):
        self.draw, self.left, self.sent = draw, None, 0
        self.visit = checkpoint.Checkpoints.visit

    def __enter__(self):
        def visited(checkpoints, system, fitted, position, epoch_ended=False):
            if self.left is not None and not epoch_ended:
                self.left -= 1
                if not self.left:
                    self.sent += 1
                    os.kill(os.getpid(), signal.SIGINT)
            self.visit(checkpoints, system, fitted, position, epoch_ended)

        checkpoint.Checkpoints.visit = visited
        return self

    def __exit__(self, *_):
        checkpoint.Checkpoints.visit = self.visit


def quietly(arguments):
    """The exit code and stderr of a command that runs in this process."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        return command(arguments), said.getvalue()


def life(data, folder, number, interruption):
    """A run that is interrupted and resumed until it is complete, evaluated and used. Returns a digest of its model."""
    run = folder / "run"
    arguments = ["train", "--data", str(data), "--out", str(run), "--seed", str(number % 3), *SETTINGS]
    while True:
        interruption.left = interruption.draw.randint(1, 60)
        code, said = quietly(arguments)
        interruption.left = None
        if code == 0:
            break
        if code != 130:
            raise SystemExit(f"life {number}: exit code {code}: {said}")
        arguments = ["train", "--resume", str(run)]
    for more in (["evaluate", str(run), "--json"], ["recommend", str(run), "--out", str(folder / "lists.parquet")]):
        code, said = quietly(more)
        if code:
            raise SystemExit(f"life {number}: {more[0]}: exit code {code}: {said}")
    tensors = load_file(run / "model.safetensors")
    shutil.rmtree(run)
    return {name: hashlib.sha256(one.numpy().tobytes()).hexdigest() for name, one in tensors.items()}


def held():
    """The resident bytes, open files and threads of this process, after a garbage collection."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def compared(samples):
    """{"memory", "files", "threads"}: [median of the first fifth, of the last fifth]."""
    fifth = max(1, len(samples) // 5)
    ends = [samples[:fifth], samples[-fifth:]]
    return {
        name: [statistics.median(one[at] for one in end) for end in ends]
        for at, name in enumerate(("memory", "files", "threads"))
    }


def flat(found):
    """A sentence for every quantity that has increased."""
    memory, *counts = (found[name] for name in ("memory", "files", "threads"))
    pairs = zip(("files", "threads"), counts, strict=True)
    bad = [f"{name} grew from {before:g} to {after:g}" for name, (before, after) in pairs if after > before]
    if memory[1] > (1 + GROWTH) * memory[0]:
        bad.append(f"memory grew by {memory[1] / memory[0] - 1:.1%}, from {memory[0]:.0f} to {memory[1]:.0f} bytes")
    return bad


def soak(minutes, users, items, seed, leak=0):
    """The results of a soak test. Every life leaks `leak` bytes, for a test of the soak test itself."""
    begun, lives, samples, models, kept = time.monotonic(), 0, [], {}, []
    with tempfile.TemporaryDirectory() as place, Interruption(random.Random(seed)) as interruption:
        folder = Path(place)
        data = write_plain(
            synthetic(seed=4, n_users=users, n_items=items, modalities={"image": 6, "text": 5}), folder / "data"
        )
        while (spent := (time.monotonic() - begun) / 60) < minutes or len(samples) < 5:
            model = life(data, folder, lives, interruption)
            if models.setdefault(lives % 3, model) != model:
                raise SystemExit(f"life {lives} ended in another model than life {lives % 3}, of the same seed")
            lives += 1
            kept.append(np.ones(leak, np.uint8))
            if spent >= minutes / 10 and lives > 2:
                samples.append(held())
    found = compared(samples)
    return {
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "lives": lives,
        "samples": len(samples),
        "interrupted": interruption.sent,
        **found,
        "bad": flat(found),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = soak(chosen.minutes, chosen.users, chosen.items, chosen.seed)
    print(json.dumps(found))
    return int(bool(found["bad"]))


if __name__ == "__main__":
    sys.exit(main())
