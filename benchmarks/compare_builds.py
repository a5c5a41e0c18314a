"""The CPU time of training steps and of infonce in two builds, in turns:
``python -P benchmarks/compare_builds.py DATA OLD NEW``.

OLD and NEW are source trees in which the library is built (`python setup.py build_ext --inplace`); trees back to
02adaac can be compared. Each build is a process, because a process can load one library only. The two processes run
every call in turns, one call at a time, so that both have the same load on the machine. Shown are the least time of
each build, their ratio, and the quartiles of the ratios of neighbouring calls, which hold better on a busy machine.
With several threads, times are elapsed time instead of CPU time, so the machine must be idle.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

CALLS = [
    *(f"infonce, {users} users, {precision}" for users in (9308, 100_000) for precision in ("float32", "bfloat16")),
    *(f"mmssl step, H = {hidden}, {precision}" for precision in ("float32", "bfloat16") for hidden in (512, 1024)),
    "lightgcn step",
    "product of 1024 x 1024",
]
SIDE = """
import json, os, sys, time
import torch
channel, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
data_path, names, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
clock = time.thread_time if threads == 1 else time.perf_counter
from mmssl_fast import InteractionGraph, infonce, sample_bpr
from mmssl_trainer.systems.base import Batch
try:
    from mmssl_trainer import configure, load_data
    from mmssl_trainer.training.loop import Run
    from mmssl_trainer.training.progress import NullObserver
except ImportError:  # before mmssl_trainer.training
    Run = None

def step(values):
    values = {"train.threads": threads} | values
    if Run is not None:
        run = Run(load_data(data_path), configure(values), NullObserver())
        system, graph, config, batch = run.system, run.graph, run.config, run.batch
    else:
        from mmssl_trainer import train
        from mmssl_trainer.config import load as load_config
        from mmssl_trainer.data import load
        from mmssl_trainer.systems import create
        data, config = load(data_path), load_config(overrides={k: (v, "--set") for k, v in values.items()})
        graph = InteractionGraph.from_scipy(data.train)
        torch.manual_seed(config.train.seed)
        system, batch = create(config.model.system), train._batch(data, graph, config)
        system.build(data, graph, config)
    system.start_epoch(1)
    number = [0]

    def call():
        system.step(Batch(*sample_bpr(graph, batch, 0, number[0], config.train.sample_over), number[0]))
        number[0] += 1

    return call

def call_of(name):
    if name.startswith("infonce"):
        users = int(name.split()[1])
        h, e = (torch.randn(users, 64, requires_grad=True) for _ in range(2))
        ids = torch.randperm(users)[:1024]

        def call():
            with torch.autocast("cpu", torch.bfloat16, enabled=name.endswith("bfloat16")):
                torch.autograd.grad(infonce(h, e, ids, 0.2), (h, e))

        return call
    if name.startswith("mmssl"):
        hidden = [1024, 512] if "1024" in name else [512, 256]
        return step({"model.hidden": hidden, "train.precision": name.rsplit(" ", 1)[1]})
    if name.startswith("lightgcn"):
        return step({"model.system": "lightgcn", "train.batch": 2048, "train.sample_over": "interactions"})
    x = torch.randn(1024, 1024)
    return lambda: x @ x

calls = {name: call_of(name) for name in names}
for call in calls.values():
    call()
    call()
print("ready", file=channel, flush=True)
for line in sys.stdin:
    call, repeats = calls[names[int(line)]], 1
    if names[int(line)].startswith(("lightgcn", "product")):
        repeats = 10
    began = clock()
    for _ in range(repeats):
        call()
    print((clock() - began) / repeats, file=channel, flush=True)
"""


class Side:
    """A process that has loaded one build."""

    def __init__(self, tree: Path, folder: Path, data: str, names: list[str], threads: int) -> None:
        folder.mkdir()
        for package, source in (("mmssl_fast", "mmssl_fast"), ("mmssl_trainer", "python")):
            (folder / package).symlink_to((tree / source).resolve())
        environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-P", "-c", SIDE, json.dumps([data, names, threads])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self.process.wait()}")
        return line

    def seconds(self, number: int) -> float:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return float(self.answer())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=10, help="calls of each build")
    parser.add_argument("--only", default="", help="regular expression: the calls to measure, such as 'H = 512'")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    names = [name for name in CALLS if re.search(given.only, name)]
    data = str(Path(given.data).resolve())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {"old": given.old, "new": given.new}
        sides = {key: Side(tree, folder / key, data, names, given.threads) for key, tree in trees.items()}
        for side in sides.values():
            stack.callback(side.process.kill)
        for side in sides.values():
            side.answer()
        times: dict[str, dict[str, list[float]]] = {name: {"old": [], "new": []} for name in names}
        for turn in range(given.rounds):
            for number, name in enumerate(names):
                for key in sorted(sides, reverse=turn % 2 == 0):
                    times[name][key].append(sides[key].seconds(number))
    report(times)


def report(times: dict[str, dict[str, list[float]]]) -> None:
    print("| | old, ms | new, ms | times faster: least, median (quartiles) of neighbours |\n|---|---|---|---|")

    def row(name: str, old: list[float], new: list[float]) -> None:
        pairs = [a / b for a, b in zip(old, new, strict=True)]
        low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
        least = min(old), min(new)
        print(
            f"| {name} | {1e3 * least[0]:.2f} | {1e3 * least[1]:.2f} | {least[0] / least[1]:.2f}, {middle:.2f} "
            f"({low:.2f} to {high:.2f}) |"
        )

    for name, found in times.items():
        row(name, found["old"], found["new"])
    for name, found in times.items():
        exact = times.get(name.replace("bfloat16", "float32"))
        if name.endswith("bfloat16") and exact is not None:
            row(f"{name}, against old float32", exact["old"], found["new"])


if __name__ == "__main__":
    main()
