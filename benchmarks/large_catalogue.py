"""A run on a large random catalogue: build, training steps, evaluation, recommendations. Prints time and memory of
every stage as JSON, beside the estimate of the memory and lower bounds of the time.

    python -P benchmarks/large_catalogue.py [--users N] [--items N] [--interactions N] [--hidden H] [--set KEY=VALUE …]

A million users and items, in less than 16 GiB:

    OMP_NUM_THREADS=2 python -P benchmarks/large_catalogue.py --users 1000000 --items 1000000 \\
        --interactions 20000000 --evaluated 10000 --steps 3 --recommend --set train.memory=14GiB \\
        --set optimiser.first_layer_moments=bfloat16 --set train.feature_dtype=float16

The data is written to a folder in the prepared layout and memory-mapped. Users and items gather around 300 random
topics, as in benchmarks/neighbours.py: three fifths of a user's items are of its topic, the features of an item are
those of its topic with noise. "floor_s" is the time of a stage at the rate of a float32 matrix product and the
bandwidth of a copy, which are measured first, with the same number of threads, in CPU time, so that other work on the
machine does not lower them. Compare it with "cpu_s" divided by the number of threads.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from mmssl_trainer import threads

threads.configure()  # before torch is imported

import numpy as np
import torch
from mmssl_trainer import systems
from mmssl_trainer.cli.options import parse_set
from mmssl_trainer.config.load import load
from mmssl_trainer.data import Dataset
from mmssl_trainer.data.layouts import prepared
from mmssl_trainer.data.options import LoadOptions
from mmssl_trainer.data.prepare.write import Npy, write_manifest
from mmssl_trainer.embeddings import on_cpu
from mmssl_trainer.memory import budget, cost, plan
from mmssl_trainer.memory.sizes import sizes_of
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs.recommend import recommend, write
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.systems.base import Batch

from mmssl_fast import InteractionGraph, sample_bpr
from mmssl_fast.nn import clustered

WIDTHS = {"visual": 128, "acoustic": 64}
TOPICS, OWN_TOPIC, NOISE = 300, 0.6, 0.7
BLOCK = 1 << 16


def write_catalogue(folder: Path, users: int, items: int, interactions: int, evaluated: int, dtype: str) -> None:
    """Write the catalogue in the prepared layout. `evaluated` users, evenly spaced, have a test item of their topic."""
    random = np.random.default_rng(0)
    topic = random.integers(TOPICS, size=items)
    by_topic, popular = np.argsort(topic, kind="stable"), random.permutation(items)
    first = np.searchsorted(topic[by_topic], np.arange(TOPICS + 1))
    topic_of_user = random.integers(TOPICS, size=users)

    def drawn(rows: np.ndarray, share: float) -> np.ndarray:
        """An item for each row: of the user's topic with this probability, or any. Few are popular in each."""
        place, own, t = random.random(len(rows)) ** 3, random.random(len(rows)) < share, topic_of_user[rows]
        own &= first[t] < first[t + 1]
        of_topic = first[t] + (place * (first[t + 1] - first[t])).astype(np.int64)
        return np.where(own, by_topic[np.minimum(of_topic, items - 1)], popular[(place * items).astype(np.int64)])

    keys = np.empty(0, np.int64)
    while len(keys) < interactions:
        rows = random.integers(users, size=int(1.05 * (interactions - len(keys))) + 1)
        keys = np.unique(np.concatenate([keys, rows * items + drawn(rows, OWN_TOPIC)]))
    keys = keys[np.sort(random.permutation(len(keys))[:interactions])]
    rows = np.unique(np.linspace(0, users - 1, min(evaluated, users)).astype(np.int64))
    test = np.setdiff1d(rows * items + drawn(rows, 1.0), keys)
    for split, pairs in (("train", keys), ("val", keys[:0]), ("test", test)):
        np.save(folder / f"{split}_indptr.npy", np.searchsorted(pairs, np.arange(users + 1) * items))
        np.save(folder / f"{split}_indices.npy", (pairs % items).astype(np.int32))
    for name, width in WIDTHS.items():
        points = random.standard_normal((TOPICS, width), np.float32)
        with Npy(folder / f"{name}_feat.npy", dtype, width) as file:
            for begin in range(0, items, BLOCK):
                block = points[topic[begin : begin + BLOCK]]
                file.add(block + NOISE * random.standard_normal(block.shape, np.float32))
    write_manifest(folder, (users, items), WIDTHS, [])


def catalogue(folder: Path, users: int, items: int, interactions: int, evaluated: int, dtype: str) -> Dataset:
    """The catalogue in the folder, memory-mapped. It is written if it is not there."""
    if not prepared.fits(folder):
        write_catalogue(folder, users, items, interactions, evaluated, dtype)
    data = prepared.read(folder, LoadOptions())
    if (data.n_users, data.n_items, data.train.nnz) != (users, items, interactions):
        raise SystemExit(f"{folder}: has another catalogue, {data.train.shape} with {data.train.nnz} interactions")
    return data


def highest_rss(reset: bool = False) -> int:
    """The highest resident memory of this process since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def this_machine() -> cost.Device:
    """The rate of a float32 product and the bandwidth of a copy: the best of several, by CPU time."""
    size = 2048
    a, b, source = torch.randn(size, size), torch.randn(size, size), torch.randn(1 << 26)
    target = torch.empty_like(source)

    def best(call) -> float:
        times = []
        for _ in range(9):
            begun = time.process_time()
            call()
            times.append((time.process_time() - begun) / torch.get_num_threads())
        return min(times)

    return cost.Device(2 * source.nbytes / best(lambda: target.copy_(source)), 2 * size**3 / best(lambda: a @ b), 0.0)


class Stages:
    """Time and peak memory of every stage."""

    def __init__(self, device: str) -> None:
        self.device, self.base, self.rows = device, highest_rss(), []

    def __call__(self, name, call, floor=None, predicted=None):
        highest_rss(reset=True)
        begun = time.perf_counter()
        cpu = time.process_time()
        result = call()
        if self.device != "cpu":
            torch.cuda.synchronize()
        row = {"stage": name, "s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu}
        row |= {"floor_s": floor} if floor is not None else {}
        row |= {"peak_rss": highest_rss(), "predicted": predicted and predicted + self.base}
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        return result


def neighbour_operations(sizes, searches) -> float:
    """The products of the clustered searches for semantic neighbours, or of the exact one."""
    if not searches:
        return 2.0 * sizes.modalities * sizes.users * sizes.items * sizes.dim
    total = 0.0
    for search in searches.values():
        seen = clustered.ROUNDS * min(sizes.items, clustered.ROWS_OF_A_CLUSTER * search.clusters)
        total += (seen + sizes.users + sizes.items) * search.clusters
        total += sizes.users * sizes.items * search.probes / search.clusters
    return 2.0 * sizes.dim * total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interactions", type=int, default=4_000_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--evaluated", type=int, default=10**9, help="users with a test item, at most")
    parser.add_argument("--recommend", action="store_true", help="20 items for every user, as Parquet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", help="where the data is written, or has been written")
    options = parser.parse_args()
    changes = {"model.hidden": [options.hidden, options.hidden // 2]} | dict(map(parse_set, options.set))
    config = load(overrides={key: (value, "--set") for key, value in changes.items()})
    method = clustered.search_method(config.model.neighbours_method, options.users, options.items)
    config = config.changed("model", neighbours_method=method)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(exist_ok=True)
        found = run(options, config, folder)
    print(json.dumps(found))


def run(options: argparse.Namespace, config, folder: Path) -> dict:
    stage = Stages(options.device)
    machine = this_machine()
    half = "float16" if config.train.feature_dtype == "float16" else "float32"
    sizes = options.users, options.items, options.interactions, options.evaluated
    data = stage("data", lambda: catalogue(folder, *sizes, half))
    config = budget.fit_to_budget(data, config)
    sizes = sizes_of(data, config)
    stages = plan.stages(sizes)
    built = plan.peak([part for part in stages if part.phase == "build" and part.name != "best model"])
    found = vars(options) | {"threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= {"config": config.changes(), "gflops": machine.rate / 1e9, "gb_per_s": machine.bandwidth / 1e9}
    found |= {"imports_rss": stage.base, "plan_peak": plan.peak(stages), "plan_live": plan.live(stages)}
    print(json.dumps(found), file=sys.stderr, flush=True)

    torch.manual_seed(0)
    graph = stage("graph", lambda: InteractionGraph.from_scipy(data.train).to(options.device))
    system = systems.create("mmssl")
    stage("build", lambda: system.build(data, graph, config), predicted=built)
    searches = system.model.searches
    stage.rows[-1]["floor_s"] = neighbour_operations(sizes, searches) / machine.rate
    system.start_epoch(1)

    # The training loop keeps copies of the best model, from the second epoch on those of its parameters as well.
    best = [on_cpu(table, copy=True) for table in stage("embeddings", system.embeddings)]
    kept = {name: tensor.clone() for name, tensor in system.parameters().items()}
    step_floor = sum(cost.floor(part, machine) for part in stages)
    for step in range(options.steps):
        triples = sample_bpr(graph, config.train.batch, 0, step, config.train.sample_over)
        losses = stage(
            "first step" if step == 0 else f"step {step + 1}",
            lambda triples=triples, step=step: system.step(Batch(*triples, step)),
            step_floor,
            plan.peak(stages),
        )
    found["losses"] = {name: float(value.detach()) for name, value in losses.items()}
    del losses
    best = [on_cpu(table) for table in stage("embeddings", system.embeddings)]
    product = 2.0 * sizes.items * sizes.dim / machine.rate  # a user's scores of all items
    ranked = int((np.diff(data.test.indptr) > 0).sum())
    found["metrics"] = stage(
        f"evaluation of {ranked} users",
        lambda: split_metrics(*best, data, "test", [20], batch=config.evaluate.batch),
        ranked * product,
    )
    if options.recommend:
        model = Model(*best, kept, data, {})
        file = folder / "recommendations.parquet"
        found["rows"] = stage("recommendations", lambda: write(recommend(model), file), sizes.users * product)
    times = {row["stage"]: row["s"] for row in stage.rows}
    found |= {"build_s": times["build"], "step_s": times.get("step 2", times["first step"])}
    found |= {"evaluation_s": times[f"evaluation of {ranked} users"], "stages": stage.rows}
    found["searches"] = {name: search._asdict() for name, search in searches.items()}
    found["peak_rss"] = max(row["peak_rss"] for row in stage.rows if row["stage"] != "data")
    if options.device != "cpu":
        found["peak_device"] = torch.cuda.max_memory_allocated()
    return found


if __name__ == "__main__":
    main()
