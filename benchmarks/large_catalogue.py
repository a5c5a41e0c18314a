"""A training step and an evaluation of a large random catalogue. Prints time and memory as JSON.

python benchmarks/large_catalogue.py [--users N] [--items N] [--interactions N] [--hidden H] [--device cuda]
"""

import argparse
import json
import resource
import time

from mmssl_trainer import threads

threads.configure()  # before torch is imported

import numpy as np
import scipy.sparse as sp
import torch
from mmssl_trainer import systems
from mmssl_trainer.config.load import load
from mmssl_trainer.data import Dataset
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.systems.base import Batch

from mmssl_fast import InteractionGraph, sample_bpr

WIDTHS = {"visual": 128, "acoustic": 64}


def catalogue(users: int, items: int, interactions: int) -> Dataset:
    """Random interactions with item popularity 1 / rank, a test item for every user, and normal features."""
    random = np.random.default_rng(0)
    share = (1 / np.arange(1, items + 1)).cumsum()
    drawn = np.searchsorted(share, random.random(interactions) * share[-1])
    train = matrix(random.integers(0, users, interactions), drawn, (users, items))
    test = matrix(np.arange(users), random.integers(0, items, users), (users, items))
    features = {name: random.standard_normal((items, width), np.float32) for name, width in WIDTHS.items()}
    none = sp.csr_array((users, items), dtype=np.float32)
    return Dataset("random", "random", users, items, train, none, test, features)


def matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    found = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape)
    found.sum_duplicates()
    found.data[:] = 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interactions", type=int, default=4_000_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = load(overrides={"model.hidden": ([options.hidden, options.hidden // 2], "--hidden")})
    data = catalogue(options.users, options.items, options.interactions)
    found: dict[str, float] = vars(options) | {"threads": torch.get_num_threads()}

    def timed(name, call):
        begun = time.perf_counter()
        result = call()
        if options.device != "cpu":
            torch.cuda.synchronize()
        found[name] = time.perf_counter() - begun
        return result

    torch.manual_seed(0)
    graph = timed("graph_s", lambda: InteractionGraph.from_scipy(data.train).to(options.device))
    system = systems.create("mmssl")
    timed("build_s", lambda: system.build(data, graph, config))  # the semantic neighbours of every user among them
    system.start_epoch(1)
    for name in ("first_step_s", "step_s"):
        offset = 0 if name == "first_step_s" else 1
        triples = sample_bpr(graph, config.train.batch, 0, offset, config.train.sample_over)
        losses = timed(name, lambda triples=triples, offset=offset: system.step(Batch(*triples, offset)))
    found["losses"] = {name: float(value.detach()) for name, value in losses.items()}
    found["evaluation_s_metrics"] = timed(
        "evaluation_s", lambda: split_metrics(*system.embeddings(), data, "test", [20], batch=config.evaluate.batch)
    )
    found["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.device != "cpu":
        found["peak_device"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
