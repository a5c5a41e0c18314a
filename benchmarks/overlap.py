"""The encoder of MMSSL over ranks: exchanges of tables that run beside propagation, against exchanges that are waited
for at once.

`python benchmarks/overlap.py` times the forward and backward pass of the encoder on two processes, with and without the
overlap in turns, on the loopback interface, and prints the ratio of the wall times, median and quartiles. A ratio below
1 is a gain. Before, it checks that both have the same embeddings and gradients, to the last bit. On a machine with
other work, the ratios of single rounds differ much; so do medians of few rounds. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch

from mmssl_fast import InteractionGraph
from mmssl_fast import distributed as md
from mmssl_fast.nn import MMSSL, encoder

sys.path.append(str(Path(__file__).parent))
from forked import result_of_ranks

SIZES = {"users": 5000, "items": 5000, "interactions": 100_000, "dim": 64, "width": 128, "layers": 2}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
STARTS = ("start_rows_to_columns", "start_columns_to_rows")


def waiting(start: Callable[..., md.Exchange]) -> Callable[..., md.Exchange]:
    """`start` of an exchange that has ended when it returns, in forward and in backward."""
    return lambda *arguments: md.Exchange(start(*arguments).wait())


def work(sizes: dict[str, int], rounds: int, out: Path) -> None:
    """All rounds on this rank. The first rank writes the seconds of every round to `out`."""
    torch.set_num_threads(1)
    ranks = md.start()
    generator = torch.Generator().manual_seed(0)
    shape = sizes["users"], sizes["items"]
    edges = [torch.randint(n, (sizes["interactions"],), generator=generator) for n in shape]
    graph = InteractionGraph.from_pairs(*edges, *shape)
    features = {name: torch.randn(shape[1], sizes["width"], generator=generator) for name in ("image", "text")}
    model = MMSSL(graph, features, dim=sizes["dim"], layers=sizes["layers"], dropout=0.0, ranks=ranks)

    def step(overlap: bool) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        md.all_sum(torch.zeros(1), ranks)  # all ranks begin together
        begun = time.perf_counter()
        with ExitStack() as stack:
            for name in () if overlap else STARTS:
                stack.enter_context(patch.object(encoder, name, waiting(getattr(encoder, name))))
            found = model()
            (found.users.square().sum() + found.items.square().sum()).backward()
        md.all_sum(torch.zeros(1), ranks)  # the slowest rank counts
        seconds = time.perf_counter() - begun
        gradients = [x.grad.clone() for x in model.parameters() if x.grad is not None]
        return seconds, [found.users.detach(), found.items.detach(), *gradients]

    for one, other in zip(step(True)[1], step(False)[1], strict=True):
        if not one.equal(other):
            raise RuntimeError("with and without the overlap, embeddings or gradients differ")
    seconds = []
    for number in range(rounds):
        order = (True, False) if number % 2 else (False, True)
        taken = {overlap: step(overlap)[0] for overlap in order}
        seconds.append([taken[True], taken[False]])
    if ranks.rank == 0:
        out.write_text(json.dumps(seconds))
    md.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if given.ranks < 2 or given.rounds < 4:
        parser.error("at least 2 ranks and 4 rounds are needed")
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-P", *sys.argv], os.environ | ENVIRONMENT)
    sizes = {name: getattr(given, name) for name in SIZES}
    # [seconds with, seconds without] of every round
    seconds = result_of_ranks(given.ranks, lambda out: work(sizes, given.rounds, out))
    low, median, high = statistics.quantiles((overlap / without for overlap, without in seconds), n=4)
    print(f"{given.ranks} ranks, {given.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(f"wall time with overlap / without: median {median:.2f}, quartiles {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
