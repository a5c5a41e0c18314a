"""The growth of this process's memory over a short MMSSL run, beside what mmssl_trainer.plan says of it.

    python -P tests/plan_memory.py USERS ITEMS INTERACTIONS WIDTH DIM HIDDEN BATCH

Prints one line of JSON, {"measured", "planned"} in bytes. A tiny run comes first, so that libraries are loaded.
"""

import json
import resource
import sys

import numpy as np
import scipy.sparse as sp
from mmssl_trainer import plan, train
from mmssl_trainer.config import load
from mmssl_trainer.data import Dataset


def dataset(users, items, interactions, width):
    """Random interactions without validation, two modalities of a width; nothing is held that need not be."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, users * items, interactions))
    indptr = np.searchsorted(keys, np.arange(users + 1, dtype=np.int64) * items)
    matrix = sp.csr_array((np.ones(len(keys), np.float32), (keys % items).astype(np.int32), indptr), (users, items))
    empty = sp.csr_array((users, items), dtype=np.float32)
    features = {name: rng.standard_normal((items, width), np.float32) for name in ("image", "text")}
    return Dataset("measured", "made", users, items, matrix, empty, empty, features)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def highest():
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def run(users, items, interactions, width, dim, hidden, batch):
    chosen = {"model.dim": dim, "model.hidden": [hidden, hidden // 2], "train.batch": batch, "train.epochs": 1,
              "train.threads": 1, "train.sample_over": "interactions"}  # fmt: skip
    config = load(None, {name: (value, "test") for name, value in chosen.items()})
    before = resident()
    data = dataset(users, items, interactions, width)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest so far is forgotten
    train.fit(data, config)
    return {"measured": highest() - before, "planned": plan.peak(plan.stages(plan.sizes_of(data, config)))}


if __name__ == "__main__":
    run(300, 200, 2000, 8, 16, 32, 1024)
    print(json.dumps(run(*map(int, sys.argv[1:]))))
