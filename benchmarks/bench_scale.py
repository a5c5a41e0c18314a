"""An adversarial step for several catalogue sizes, against the dense formulation, and (slow) a training step of a large
catalogue.

`mmssl-fast benchmark --plot docs/scale.png -k "step and catalogue_size and not 000000" -m "slow or not slow"` plots the
adversarial step against the number of items, up to 200 thousand.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bench_step import Step
from registry import DEVICE, Shape, environment, finished, peak_bytes, permutation

from mmssl_fast import InteractionGraph
from mmssl_fast.ops.gumbel_rows import gumbel_order_statistics
from mmssl_fast.ops.row_sums import row_sums

HIDDEN, TAU = 512, 0.2
DENSE_UP_TO = 20_000  # items; with more, the dense step takes minutes and gigabytes
SIZES = [5_000] + [pytest.param(n, marks=pytest.mark.slow) for n in (20_000, 50_000, 200_000, 1_000_000)]


def seconds(call, repeats, timer):
    times = []
    for _ in range(repeats):
        begun = timer()
        call()
        times.append(timer() - begun)
    return statistics.median(times)


@pytest.mark.parametrize("items", SIZES)
def test_step_against_catalogue_size(benchmark, items):
    shape = Shape(f"{items}_items", 20_000, items, 200_000, (64,))
    dense = items <= DENSE_UP_TO
    step = Step(shape, TAU, HIDDEN, dense)
    if dense:
        step.verify()
    benchmark.pedantic(step.lazy, rounds=2, iterations=1, warmup_rounds=1)
    found = {
        "items": items,
        "ours": {"seconds": seconds(step.lazy, 2, benchmark._timer), "bytes": peak_bytes(step.lazy)},
    }
    if dense:
        found["dense"] = {"seconds": seconds(step.dense, 1, benchmark._timer), "bytes": peak_bytes(step.dense)}
    benchmark.extra_info |= {"scale": found, "hidden": HIDDEN, "tau": TAU, **environment()}


@pytest.mark.slow
def test_training_step_of_a_large_catalogue(benchmark):
    """A full training step and an evaluation of every user, for 200 thousand users and items and 4 million
    interactions, take less than 8 GiB."""
    script = Path(__file__).with_name("large_catalogue.py")
    found = benchmark.pedantic(
        lambda: json.loads(subprocess.run([sys.executable, "-P", script], check=True, capture_output=True).stdout),
        rounds=1,
    )
    benchmark.extra_info |= {**found, **environment()}
    assert found["peak_rss"] < 8 * 2**30


@pytest.mark.parametrize("items", [10_000, 1_000_000, 10_000_000])
def test_order_statistics_against_catalogue_size(benchmark, items):
    """The cost of the rows of equation 5 at τ = 0.2 does not depend on the size of the catalogue."""
    users = torch.arange(1024)
    seen = permutation(items)[: 5 * 1024].sort().values.cpu()
    graph = InteractionGraph.from_pairs(users.repeat(5).cpu(), seen, 1024, items).to(DEVICE)
    rows = gumbel_order_statistics(graph, users, TAU, 7)
    sums = row_sums(rows[0], rows[2].double())
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    benchmark.pedantic(
        finished(lambda: gumbel_order_statistics(graph, users, TAU, 7)), rounds=5, iterations=1, warmup_rounds=1
    )
    benchmark.extra_info |= {"items": items, "entries": int(rows[0][-1]), **environment()}
