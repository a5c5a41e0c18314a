"""Training with several ranks: the plan's bytes and memory of a rank against those that are measured.

`python benchmarks/ranks.py --ranks 1 2 4` trains MMSSL, or `--system sgl`, ncl, lightgcn, mf, for a few steps on random
data, with every number of ranks in turn, and prints a table. It fails if the bytes that a rank receives in a step
differ from the plan by more than 5%, or if the slope of a rank's memory against 1/P differs from that of the plan by
more than 10%. Memory is the growth of the resident memory. Freed blocks are returned to the system at once, as the plan
counts them. 4/2 are 4 ranks in 2 groups, which divide the graph; the slope is that of the rows without groups.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from mmssl_fast.distributed.ranks import launch

HERE = Path(__file__).parent
STEPS, WITHIN_BYTES, WITHIN_MEMORY = 2, 0.05, 0.10  # steps of an epoch
SIZES = {"users": 50_000, "items": 50_000, "interactions": 200_000, "dim": 64, "hidden": 64, "batch": 2048}


def work(sizes: dict[str, int], system: str, groups: int, out: Path) -> None:
    """A short run on this rank. The first rank writes the measurements to `out`."""
    import numpy as np
    import scipy.sparse as sp
    from mmssl_trainer import configure, load_data
    from mmssl_trainer.data import Dataset
    from mmssl_trainer.memory import plan
    from mmssl_trainer.memory.sizes import sizes_of
    from mmssl_trainer.training import loop
    from mmssl_trainer.training.progress import NullObserver

    from mmssl_fast import distributed as md

    class Counted(NullObserver):
        def __init__(self, counts: list[int]) -> None:
            self.counts = counts

        def stepped(self, epoch, step, losses):
            self.counts.append(md.current().received)

    def memory(line: str) -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(one.split()[1]) for one in status if one.startswith(line))

    ranks = md.start(groups=groups)
    base = {"train.threads": 1, "train.epochs": 1, "train.validate_every": 1, "model.system": system}
    base["ncl.warm_up"] = 0
    warm = configure(base | {"model.dim": 8, "model.hidden": [8, 4]})
    loop.fit(load_data(), warm)  # loads the pages of the libraries
    rng, shape = np.random.default_rng(0), (sizes["users"], sizes["items"])
    config = configure(
        base
        | {
            "train.epochs": 2,
            "train.refresh_every": 9,
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
    features = {name: rng.standard_normal((shape[1], 64), np.float32) for name in ("image", "text")}
    data = Dataset("measured", "made", *shape, train, none, none, features)
    del pairs, train, none, features
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    counts: list[int] = []
    run = loop.Run(data, config, Counted(counts))
    run.steps = STEPS
    run._start_epoch(1)
    run.complete()
    stages = plan.stages(sizes_of(data, config))
    found = {
        "ranks": ranks.size,
        "groups": groups,
        "graph": next(stage.persistent for stage in stages if stage.name == "graph and its transpose"),
        "held": run.graph.nbytes() if groups > 1 else tensor_bytes(run.graph),
        "received": (counts[STEPS - 1] - counts[0]) / (STEPS - 1),
        "planned": sum(stage.received for stage in stages),
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
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
        command = [sys.executable, "-P", str(HERE / "ranks.py"), "--out", str(out), "--groups", str(groups)]
        command += ["--system", system]
        failed = launch(size, [*command, *(f"--{name}={value}" for name, value in sizes.items())])
        if failed != (0, 0):
            raise SystemExit(f"ranks: rank {failed[0]} of {size} ended with {failed[1]}")
        return json.loads(out.read_text())


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
        f"{label(row)} ranks: {row['received']:.0f} bytes received, {row['planned']:.0f} planned"
        for row in rows
        if row["ranks"] > 1 and abs(row["received"] / row["planned"] - 1) > WITHIN_BYTES
    ]
    if len({row["ranks"] for row in rows if row["groups"] == 1}) > 1:
        measured, planned = slope(rows, "memory"), slope(rows, "live")
        if abs(planned / measured - 1) > WITHIN_MEMORY:
            found.append(f"memory against 1/P: {measured / 2**20:.0f} MiB measured, {planned / 2**20:.0f} MiB planned")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", nargs="+", default=["1", "2", "4"], help="P, or P/G for P ranks in G groups")
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--system", default="mmssl")
    parser.add_argument("--groups", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = {name: getattr(given, name) for name in SIZES}
    if given.out:
        return work(sizes, given.system, given.groups, given.out)
    chosen = [[int(part) for part in one.split("/")] for one in given.ranks]
    pairs = [one if len(one) > 1 else [*one, 1] for one in chosen]
    rows = [measure(size, groups, given.system, sizes) for size, groups in pairs]
    print("| ranks | MB received in a step | planned | MiB of a rank | planned | MiB of its graph | planned |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        received, planned = row["received"] / 1e6, row["planned"] / 1e6
        graph = f"{row['held'] / 2**20:.2f} | {row['graph'] / 2**20:.2f}"
        memory = f"{row['memory'] >> 20} | {row['live'] >> 20}"
        print(f"| {label(row)} | {received:.2f} | {planned:.2f} | {memory} | {graph} |")
    if found := missed(rows):
        raise SystemExit("\n".join(["ranks: missed", *found]))


if __name__ == "__main__":
    main()
