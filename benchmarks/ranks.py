"""Training with several ranks: the plan's bytes and memory of a rank against those that are measured.

`python benchmarks/ranks.py --ranks 1 2 4` trains MMSSL, or `--systems sgl ncl`, lightgcn, mf, popularity, for a few
steps on random data, with every number of ranks in turn, and prints a table. It fails if the bytes that a rank receives
in a step, or at the start of an epoch, differ from the plan by more than 5%, or if the slope of a rank's memory against
1/P differs from that of the plan by more than 10%. Memory is the growth of the resident memory. Freed blocks are
returned to the system at once, as the plan counts them. 4/2 are 4 ranks in 2 groups, which divide the graph; the slope
is that of the rows without groups. Linux only.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from mmssl_trainer import configure
from mmssl_trainer.data import Dataset, synthetic
from mmssl_trainer.memory import plan
from mmssl_trainer.memory.sizes import sizes_of
from mmssl_trainer.training import loop
from mmssl_trainer.training.progress import NullObserver

from mmssl_fast import distributed as md

sys.path.append(str(Path(__file__).parent))
from forked import result_of_ranks

STEPS, WITHIN_BYTES, WITHIN_MEMORY = 2, 0.05, 0.10  # steps of an epoch
LEAST = 2 << 20  # bytes; the slope of popularity, which has two numbers for a user and an item, is below
SIZES = {"users": 50_000, "items": 50_000, "interactions": 200_000, "dim": 64, "hidden": 64, "batch": 2048}


# Read by the libraries when a process starts: freed blocks are returned at once, one thread, the loopback interface.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


class Counted(NullObserver):
    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def stepped(self, epoch, step, losses):
        self.counts.append(md.current().received)


def work(sizes: dict[str, int], system: str, groups: int, out: Path) -> None:
    """A short run on this rank. The first rank writes the measurements to `out`."""
    torch.set_num_threads(1)

    def memory(line: str) -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(one.split()[1]) for one in status if one.startswith(line))

    ranks = md.start(groups=groups)
    base = {"train.threads": 1, "train.epochs": 1, "train.validate_every": 1, "model.system": system}
    base["ncl.warm_up"] = 0
    warm = configure(base | {"model.dim": 8, "model.hidden": [8, 4]})
    tiny = synthetic(seed=1, n_users=200, n_items=150, modalities={"image": 8, "text": 8}, mean_degree=8)
    loop.fit(tiny, warm)  # loads the pages of the libraries
    rng, shape = np.random.default_rng(0), (sizes["users"], sizes["items"])
    config = configure(
        base
        | {
            "train.epochs": 2,
            "train.refresh_every": 1,
            "model.dim": sizes["dim"],
            "model.hidden": [sizes["hidden"], sizes["hidden"] // 2],
            "train.batch": sizes["batch"],
        }
    )
    before = memory("VmRSS")
    pairs = np.unique(rng.integers(0, shape[0] * shape[1], sizes["interactions"]))
    indptr = np.searchsorted(pairs, np.arange(shape[0] + 1, dtype=np.int64) * shape[1])
    train = sp.csr_array((np.ones(len(pairs), np.float32), (pairs % shape[1]).astype(np.int32), indptr), shape)
    none = sp.csr_array(shape, dtype=np.float32)
    names = ("image", "text") if system == "mmssl" else ()  # no other of these systems reads features
    features = {name: rng.standard_normal((shape[1], 64), np.float32) for name in names}
    data = Dataset("measured", "made", *shape, train, none, none, features)
    del pairs, train, none, features
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    counts: list[int] = []
    run = loop.Run(data, config, Counted(counts))
    run.steps = STEPS
    run._start_epoch(1)
    in_epoch, start_epoch = [], run.system.start_epoch

    def counted_start(epoch: int) -> None:
        earlier = ranks.received
        start_epoch(epoch)
        in_epoch.append(ranks.received - earlier)

    run.system.start_epoch = counted_start
    run.complete()
    stages = plan.stages(sizes_of(data, config))
    found = {
        "ranks": ranks.size,
        "groups": groups,
        "graph": next(stage.persistent for stage in stages if stage.name == "graph and its transpose"),
        "held": run.graph.nbytes() if groups > 1 else tensor_bytes(run.graph),
        "received": (counts[STEPS - 1] - counts[0]) / (STEPS - 1) if counts else 0,
        "planned": sum(stage.received for stage in stages),
        "in_epoch": in_epoch[-1] if in_epoch else 0,
        "planned_in_epoch": sum(stage.received_in_epoch for stage in stages),
        "memory": memory("VmHWM") - before,
        "live": plan.live(stages),
    }
    if ranks.rank == 0:
        out.write_text(json.dumps(found))
    md.stop()


def tensor_bytes(graph: object) -> int:
    """Bytes of the arrays of a graph."""
    return sum(getattr(one, "nbytes", 0) for one in vars(graph).values())


def measure(size: int, groups: int, system: str, sizes: dict[str, int]) -> dict[str, float]:
    """The measurements of the first of `size` ranks."""
    return result_of_ranks(size, lambda out: work(sizes, system, groups, out))


def label(row: dict[str, float]) -> str:
    return f"{row['ranks']}" if row["groups"] == 1 else f"{row['ranks']}/{row['groups']}"


def slope(rows: list[dict[str, float]], what: str) -> float:
    """The change of a rank's memory between the first and the last row, per change of 1/P."""
    rows = [row for row in rows if row["groups"] == 1]
    few, many = rows[0], rows[-1]
    return (few[what] - many[what]) / (1 / few["ranks"] - 1 / many["ranks"])


def missed(rows: list[dict[str, float]]) -> list[str]:
    """A sentence for every target that is missed."""
    found = [
        f"{label(row)} ranks: {row[what]:.0f} bytes received {when}, {row[planned]:.0f} planned"
        for row in rows
        for what, planned, when in (
            ("received", "planned", "in a step"),
            ("in_epoch", "planned_in_epoch", "at the start of an epoch"),
        )
        if abs(row[what] - row[planned]) > WITHIN_BYTES * row[what]
    ]
    if len({row["ranks"] for row in rows if row["groups"] == 1}) > 1:
        measured, planned = slope(rows, "memory"), slope(rows, "live")
        if abs(planned - measured) > max(WITHIN_MEMORY * measured, LEAST):
            found.append(f"memory against 1/P: {measured / 2**20:.0f} MiB measured, {planned / 2**20:.0f} MiB planned")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", nargs="+", default=["1", "2", "4"], help="P, or P/G for P ranks in G groups")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--systems", nargs="+", default=["mmssl"])
    given = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-P", *sys.argv], os.environ | ENVIRONMENT)
    sizes = {name: getattr(given, name) for name in SIZES}
    chosen = [[int(part) for part in one.split("/")] for one in given.ranks]
    pairs = [one if len(one) > 1 else [*one, 1] for one in chosen]
    found = []
    for system in given.systems:
        rows = [measure(size, groups, system, sizes) for size, groups in pairs]
        show(system, rows)
        found += [f"{system}, {one}" for one in missed(rows)]
    if found:
        raise SystemExit("\n".join(["ranks: missed", *found]))


def show(system: str, rows: list[dict[str, float]]) -> None:
    print(f"{system}:\n")
    print(
        "| ranks | MB received in a step | planned | at the start of an epoch | planned | MiB of a rank | planned "
        "| MiB of its graph | planned |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        bytes_of = ("received", "planned", "in_epoch", "planned_in_epoch")
        received = " | ".join(f"{row[name] / 1e6:.2f}" for name in bytes_of)
        graph = f"{row['held'] / 2**20:.2f} | {row['graph'] / 2**20:.2f}"
        memory = f"{row['memory'] >> 20} | {row['live'] >> 20}"
        print(f"| {label(row)} | {received} | {memory} | {graph} |")
    print(flush=True)


if __name__ == "__main__":
    main()
