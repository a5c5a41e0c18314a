"""The CPU time of a training step and of infonce in two builds, in turns:
``python benchmarks/compare_builds.py DATA OLD NEW``.

OLD and NEW are source trees in which the library is built (`python setup.py build_ext --inplace`). Every measurement is
a process of its own, because a process can load one library only. Its times are divided by its own time of a float32
matrix product, so that a busy machine does not matter as much; the least of each build are compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, re, sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import step_profile
from mmssl_fast import infonce
found, calls = {}, {}
for users in (9308, 100_000):
    h, e = (torch.randn(users, 64, requires_grad=True) for _ in range(2))
    ids = torch.randperm(users)[:1024]
    for gemm in (None, torch.bfloat16):
        def call(h=h, e=e, ids=ids, gemm=gemm):
            with torch.autocast("cpu", torch.bfloat16, enabled=gemm is not None):
                torch.autograd.grad(infonce(h, e, ids, 0.2), (h, e))
        name = f"infonce, {users} users, {'bfloat16' if gemm else 'float32'}"
        if re.search(sys.argv[5], name):
            calls[name] = call
for precision in ("float32", "bfloat16"):
    for hidden in ("", "1024,512"):
        name = f"step, H = {hidden.split(',')[0] or 512}, {precision}"
        if not re.search(sys.argv[5], name):
            continue
        settings = [f"train.precision={precision}"]
        run = step_profile.build(sys.argv[2], settings, [int(width) for width in hidden.split(",") if width])
        calls[name] = lambda run=run: step_profile.step(run)
x = torch.randn(1024, 1024)
calls["product"] = lambda: x @ x
for call in calls.values():
    call()
for _ in range(int(sys.argv[3])):
    for name, call in calls.items():
        found[name] = min(found.get(name, 1e9), step_profile.best(call, 1))
json.dump(found, open(sys.argv[4], "w"))
"""


def measured(tree: Path, data: str, rounds: int, only: str) -> dict[str, float]:
    """The least time of each call, in units of the product."""
    with tempfile.TemporaryDirectory() as folder:
        for package, source in (("mmssl_fast", "mmssl_fast"), ("mmssl_trainer", "python")):
            (Path(folder) / package).symlink_to((tree / source).resolve())
        kept = Path(folder) / "times.json"
        here = Path(__file__).resolve().parent
        arguments = [str(here), data, str(rounds), str(kept), only]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", MEASURE, *arguments], env=environment, check=True)
        found = json.loads(kept.read_text())
    product = found.pop("product")
    return {name: seconds / product for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--turns", type=int, default=2, help="processes of each build")
    parser.add_argument("--rounds", type=int, default=5, help="calls in each process")
    parser.add_argument("--only", default="", help="regular expression: the calls to measure, such as 'H = 512'")
    given = parser.parse_args()
    times: dict[Path, dict[str, float]] = {given.old: {}, given.new: {}}
    for _ in range(given.turns):
        for tree, least in times.items():
            for name, value in measured(tree, given.data, given.rounds, given.only).items():
                least[name] = min(least.get(name, value), value)
    old, new = times[given.old], times[given.new]
    print("| | old, in products of 1024 x 1024 | new | times faster |\n|---|---|---|---|")
    for name in old:
        print(f"| {name} | {old[name]:.2f} | {new[name]:.2f} | {old[name] / new[name]:.2f} |")
    for name in (n for n in new if n.endswith("bfloat16")):
        exact = name.replace("bfloat16", "float32")
        if exact not in old:
            continue
        print(f"| {name}, against old float32 | {old[exact]:.2f} | {new[name]:.2f} | {old[exact] / new[name]:.2f} |")


if __name__ == "__main__":
    main()
