"""The growth of a process's memory over a short run, beside what mmssl_trainer.memory.plan says of it.

    python -P tests/trainer/memory/plan_memory.py "USERS ITEMS STEPS WIDTH,WIDTH DIM HIDDEN BATCH [KEY=VALUE…]" …

Prints one line of JSON for each run, in bytes: "measured"; "live", the plan for an allocator that returns every freed
block at once, as glibc does with MALLOC_MMAP_THRESHOLD_=131072 in the environment; "peak", the plan for glibc's own
settings. Every run is in a process of its own, forked from one that has imported the libraries, and comes after a tiny
run, which loads their pages. A run has two epochs of STEPS steps: in the second, the best model of the first is kept.
KEYs are the configuration's.
"""

import json
import os
import resource
import sys

import numpy as np
import scipy.sparse as sp
import torch._dynamo  # noqa: F401  train.recompute imports it, and microbatches parts of it; not planned
from mmssl_trainer.cli.options import parse_set
from mmssl_trainer.config.load import load
from mmssl_trainer.data import Dataset
from mmssl_trainer.memory import plan
from mmssl_trainer.memory.sizes import sizes_of
from mmssl_trainer.training import loop as train


def dataset(users, items, interactions, widths):
    """Random interactions without validation, a modality of every width; nothing is held that need not be."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, users * items, interactions))
    indptr = np.searchsorted(keys, np.arange(users + 1, dtype=np.int64) * items)
    matrix = sp.csr_array((np.ones(len(keys), np.float32), (keys % items).astype(np.int32), indptr), (users, items))
    empty = sp.csr_array((users, items), dtype=np.float32)
    features = {f"m{m}": rng.standard_normal((items, width), np.float32) for m, width in enumerate(widths)}
    return Dataset("measured", "made", users, items, matrix, empty, empty, features)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def highest():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def run(users, items, steps, widths, dim, hidden, batch, *settings):
    chosen = {
        "model.dim": dim,
        "model.hidden": [hidden, hidden // 2],
        "train.batch": batch,
        "train.epochs": 2,
        "train.threads": 1,
        "train.sample_over": "interactions",
    }
    chosen |= dict(map(parse_set, settings))
    config = load(None, {name: (value, "test") for name, value in chosen.items()})
    before = resident()
    data = dataset(users, items, steps * batch, widths)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest so far is forgotten
    train.fit(data, config)
    found = plan.stages(sizes_of(data, config))
    return {"measured": highest() - before, "live": plan.live(found), "peak": plan.peak(found)}


if __name__ == "__main__":
    for line in sys.argv[1:]:
        if os.fork() == 0:
            run(300, 200, 2, [8, 8], 16, 32, 1024)
            users, items, steps, widths, dim, hidden, batch, *settings = line.split()
            sizes = int(users), int(items), int(steps), [*map(int, widths.split(","))], int(dim), int(hidden)
            print(json.dumps(run(*sizes, int(batch), *settings)), flush=True)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(f"failed: {line}")
