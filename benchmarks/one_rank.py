"""What one process pays for the functions of `mmssl_fast.distributed`: CPU time against the operations without ranks.

`python benchmarks/one_rank.py` takes steps of LightGCN (propagation, ranking loss, backward pass) and of the encoder of
MMSSL (forward and backward pass) with the functions that take ranks, for one rank, and with the operations that do not,
in turns in one process. It checks that embeddings and gradients have the same bits, and prints the ratio of the CPU
times, median and quartiles. It fails if a median is above 1.01.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import torch

import mmssl_fast as mf
from mmssl_fast import distributed as md
from mmssl_fast.nn import MMSSL, encoder

MOST = 1.01


def lightgcn_steps(graph: mf.InteractionGraph, dim: int) -> dict[str, Callable[[], list[torch.Tensor]]]:
    users, items = (torch.randn(n, dim, requires_grad=True) for n in (graph.n_users, graph.n_items))
    batch = mf.sample_bpr(graph, 1024, seed=0)

    def step(with_ranks: bool) -> list[torch.Tensor]:
        users.grad = items.grad = None
        if with_ranks:
            tables = md.lightgcn(graph, users, items, 2, md.ONE, norm="both")
            loss = md.bpr_loss(*tables, *batch, graph.n_users, graph.n_items, md.ONE)
        else:
            tables = mf.lightgcn(graph, users, items, 2, norm="both")
            loss = mf.bpr_loss(*tables, *batch)
        loss.backward()
        return [*tables, users.grad, items.grad]

    return {"with ranks": lambda: step(True), "without": lambda: step(False)}


def encoder_steps(graph: mf.InteractionGraph, dim: int) -> dict[str, Callable[[], list[torch.Tensor]]]:
    features = {name: torch.randn(graph.n_items, 128) for name in ("image", "text")}
    model = MMSSL(graph, features, dim=dim, dropout=0.0)
    plain = {
        "propagate": lambda graph, x, ranks, to="users", norm="receiver": mf.propagate(graph, x, to, norm),
        "lightgcn": lambda graph, users, items, layers, ranks, norm: mf.lightgcn(graph, users, items, layers, norm),
        "start_rows_to_columns": lambda x, n, ranks: md.Exchange(x),
        "start_columns_to_rows": lambda y, columns, ranks, n=None: md.Exchange(y),
    }

    def step(with_ranks: bool) -> list[torch.Tensor]:
        model.zero_grad()
        with ExitStack() as stack:
            for name, function in () if with_ranks else plain.items():
                stack.enter_context(patch.object(encoder, name, function))
            if not with_ranks:
                stack.enter_context(patch.object(md, "column_softmax", lambda x, ranks: x.softmax(1)))
            found = model()
            (found.users.square().sum() + found.items.square().sum()).backward()
        return [found.users, found.items, *(x.grad for x in model.parameters() if x.grad is not None)]

    return {"with ranks": lambda: step(True), "without": lambda: step(False)}


def ratio(steps: dict[str, Callable[[], list[torch.Tensor]]], rounds: int) -> list[float]:
    """[quartile, median, quartile] of the CPU times with ranks over those without."""
    first, second = (step() for step in steps.values())
    if any(not one.equal(other) for one, other in zip(first, second, strict=True)):
        raise RuntimeError("with and without ranks, embeddings or gradients differ")
    ratios = []
    for number in range(rounds):
        seconds = {}
        for name in sorted(steps, reverse=bool(number % 2)):
            begun = time.process_time()
            steps[name]()
            seconds[name] = time.process_time() - begun
        ratios.append(seconds["with ranks"] / seconds["without"])
    return statistics.quantiles(ratios, n=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"users": 9308, "items": 6710, "interactions": 60_000, "dim": 64, "rounds": 200}  # those of TikTok
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = given.users, given.items
    graph = mf.InteractionGraph.from_pairs(*(torch.randint(n, (given.interactions,)) for n in shape), *shape)
    missed = []
    for name, steps in {"LightGCN": lightgcn_steps, "the encoder of MMSSL": encoder_steps}.items():
        low, median, high = ratio(steps(graph, given.dim), given.rounds)
        print(f"{name}, CPU time with ranks / without: {median:.3f}, quartiles {low:.3f} to {high:.3f}", flush=True)
        missed += [name] if median > MOST else []
    if missed:
        raise SystemExit(f"one_rank: above {MOST}: {', '.join(missed)}")


if __name__ == "__main__":
    main()
