"""Random ranks are killed at random moments, and the resumed run ends with the digits of an uninterrupted one.

`python benchmarks/kill_ranks.py --kills 20` trains LightGCN on the built-in data set with `mmssl-fast train --ranks`.
At a random moment after each start, also while the ranks start or write a checkpoint, a random rank gets SIGKILL. The
run is then resumed with another number of ranks. After the last kill it may finish. The model file, the losses of every
epoch and the validation metrics must be those of a run of one process that was not interrupted. Linux only.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = [sys.executable, "-P", "-m", "mmssl_trainer", "train"]
SETTINGS = {"model.system": "lightgcn", "model.dim": 8, "train.patience": 0, "train.checkpoint_minutes": 0.01}


def children(process: int) -> dict[int, int]:
    """{rank: process} of the ranks that a launcher has started."""
    found = {}
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            try:
                variables = Path(f"/proc/{child}/environ").read_text().split("\0")
            except OSError:
                continue
            ranks = [one.removeprefix("RANK=") for one in variables if one.startswith("RANK=")]
            found |= {int(rank): int(child) for rank in ranks}
    return found


def start(run: Path, epochs: int, ranks: int, log: Path) -> subprocess.Popen:
    resumes = (run / "config.toml").is_file()
    arguments = ["--resume", str(run)] if resumes else ["--out", str(run), "--epochs", str(epochs), "--no-compare"]
    if not resumes:
        arguments += [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        arguments += ["--overwrite"] if run.exists() else []
    command = [*TRAIN, *arguments, "--threads", "1", *(["--ranks", str(ranks)] if ranks > 1 else [])]
    environ = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environ)


def results(run: Path) -> dict[str, object]:
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "losses": [one["losses"] for one in epochs],
        "val": [one.get("val") for one in epochs],
    }


def killed(run: Path, epochs: int, kills: int, chance: random.Random, log: Path) -> None:
    """Train in `run` with this many kills."""
    done = 0
    while True:
        ranks = chance.randint(2, 4)
        process = start(run, epochs, ranks, log)
        if done < kills:
            while process.poll() is None and len(children(process.pid)) < ranks:
                time.sleep(0.05)
            until = time.monotonic() + chance.uniform(0, 12)
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if process.poll() is None and (workers := children(process.pid)):
                os.kill(workers[chance.choice(sorted(workers))], signal.SIGKILL)
                done += 1
        began = time.monotonic()
        code = process.wait(timeout=600)
        text = log.read_text()
        if done < kills or code:
            lines = [line for line in text.splitlines() if line.startswith("mmssl-fast: ")]
            print(
                f"kill {done}, {ranks} ranks: exit {code} after {time.monotonic() - began:.1f} s: {lines}", flush=True
            )
        if "Traceback" in text or code not in (0, 1):
            raise SystemExit(text)
        if code == 0:
            if done < kills:
                raise SystemExit(f"kill_ranks: the run was finished after {done} kills; give more --epochs")
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, broken, log = Path(folder, "whole"), Path(folder, "broken"), Path(folder, "log")
        if start(whole, given.epochs, 1, log).wait():
            raise SystemExit(log.read_text())
        killed(broken, given.epochs, given.kills, random.Random(given.seed), log)
        expected, found = results(whole), results(broken)
        different = [name for name, value in expected.items() if found[name] != value]
        if different:
            raise SystemExit(f"kill_ranks: after {given.kills} kills, {', '.join(different)} differ")
        print(f"{given.kills} kills: the same model, losses and metrics as one process without interruption")


if __name__ == "__main__":
    main()
