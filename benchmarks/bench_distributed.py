"""A LightGCN step with several ranks: received bytes against the formula, memory per rank, seconds.

`python benchmarks/bench_distributed.py --ranks 1 2 4` starts every number of ranks in turn on the loopback interface
and prints a table. It fails if the bytes that the ranks count differ from the formula by more than 5%, if the bytes
that the interface counts differ from them by more than 5%, or if memory differs from 1/P by more than 10%. 4/2 are 4
ranks in 2 groups, which divide the graph; they are not part of the comparison of memory. The counters
of the loopback interface include all other programs that use it. Times are meaningful only if each rank has its own
processors or its own GPU.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmssl_fast import InteractionGraph
from mmssl_fast import distributed as md
from mmssl_fast.distributed.ranks import launch

STEPS, WITHIN_BYTES, WITHIN_MEMORY = 5, 0.05, 0.10


def graph_of(n: int, edges: int) -> InteractionGraph:
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randint(0, n, (2, edges), generator=generator)
    return InteractionGraph.from_pairs(users, items, n, n)


def formula(n_nodes: int, d: int, distinct: float, batch: int, size: int, groups: int) -> float:
    """Bytes that a rank receives in a step of two layers: exchanges of rows and columns in both directions, rows of the
    batch, and from other groups the columns of their nodes in every layer, forward and backward, and sampled items."""
    columns, others = size // groups, (groups - 1) / groups
    exchanged = 4 * n_nodes * d * 4 * (columns - 1) / (size * columns) + 2 * distinct * d * 4 * (size - 1) / size
    return exchanged + (4 * n_nodes * d / columns * 4 + 32 * batch) * others


def loopback() -> int:
    """Bytes that the interface has transferred."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return 0


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(nodes: int, edges: int, d: int, batch: int, groups: int, out: Path) -> None:
    """Some steps on this rank. Returns the measurements on the first rank."""
    torch.set_num_threads(1)
    ranks = md.start(groups=groups)
    graph = graph_of(nodes, edges)
    if groups > 1:
        graph = md.GroupGraph.from_csr(graph.crow.numpy(), graph.col.numpy(), nodes, ranks)
    base = peak()
    first, last = ranks.span(nodes)
    tables = [torch.nn.Parameter(torch.randn(last - first, d)) for _ in range(2)]
    optimiser = torch.optim.AdamW(tables)
    rows, before, began = 0, loopback(), 0.0
    for step in range(STEPS + 1):
        if step == 1:  # the first one allocates and connects
            md.all_texts("ready", ranks)
            ranks.received, rows, before, began = 0, 0, loopback(), time.perf_counter()
        triples = md.sample_bpr(graph, batch, 0, step)
        rows += len(triples[0].unique()) + len(torch.cat(triples[1:]).unique())
        embedded = md.lightgcn(graph, *tables, 2, ranks, norm="both")
        optimiser.zero_grad()
        md.bpr_loss(*embedded, *triples, nodes, nodes, ranks).backward()
        optimiser.step()
    md.all_texts("done", ranks)
    found = {
        "ranks": ranks.size,
        "groups": groups,
        "graph": sum(x.nbytes for x in vars(graph).values() if isinstance(x, torch.Tensor))
        if groups == 1
        else graph.nbytes(),
        "received": ranks.received / STEPS,
        "formula": formula(2 * nodes, d, rows / STEPS, batch, ranks.size, groups),
        "interface": (loopback() - before) / STEPS / ranks.size,
        "memory": peak() - base,
        "seconds": (time.perf_counter() - began) / STEPS,
    }
    if ranks.rank == 0:
        out.write_text(json.dumps(found))
    md.stop()


def measure(size: int, groups: int, arguments: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        failed = launch(size, [sys.executable, __file__, "--out", str(out), "--groups", str(groups), *arguments])
        if failed != (0, 0):
            raise SystemExit(f"bench_distributed: rank {failed[0]} of {size} ended with {failed[1]}")
        return json.loads(out.read_text())


def label(row: dict[str, float]) -> str:
    return f"{row['ranks']}" if row["groups"] == 1 else f"{row['ranks']}/{row['groups']}"


def check(rows: list[dict[str, float]]) -> list[str]:
    """A sentence for every target that is missed."""
    missed = []
    for row in rows:
        for name in ("received", "interface"):
            if row["ranks"] > 1 and abs(row[name] / row["formula"] - 1) > WITHIN_BYTES:
                missed.append(f"{label(row)} ranks: {name} {row[name]:.0f} bytes, by the formula {row['formula']:.0f}")
    rows = [row for row in rows if row["groups"] == 1]
    if not rows:
        return missed
    few, many = rows[0], rows[-1]
    slope = (few["memory"] - many["memory"]) / (1 / few["ranks"] - 1 / many["ranks"]) if len(rows) > 2 else 0
    for row in rows[1:-1]:
        line = many["memory"] + slope * (1 / row["ranks"] - 1 / many["ranks"])
        if abs(row["memory"] / line - 1) > WITHIN_MEMORY:
            missed.append(f"{row['ranks']:.0f} ranks: {row['memory'] / 2**20:.0f} MiB, on the line {line / 2**20:.0f}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", nargs="+", default=["1", "2", "4"], help="P, or P/G for P ranks in G groups")
    parser.add_argument("--nodes", type=int, default=100_000, help="users, and items")
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--groups", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out:
        return work(given.nodes, given.edges, given.dim, given.batch, given.groups, given.out)
    names = ("nodes", "edges", "dim", "batch")
    flags = [part for name in names for part in (f"--{name}", str(getattr(given, name)))]
    chosen = [[int(part) for part in one.split("/")] for one in given.ranks]
    rows = [measure(size, groups, flags) for size, groups in (one if len(one) > 1 else [*one, 1] for one in chosen)]
    print(
        "| ranks | MB received | by the formula | on the interface | MiB of the graph | of tables and step | seconds |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        megabytes = " | ".join(f"{row[name] / 1e6:.2f}" for name in ("received", "formula", "interface"))
        memory = f"{row['graph'] / 2**20:.1f} | {row['memory'] / 2**20:.0f}"
        print(f"| {label(row)} | {megabytes} | {memory} | {row['seconds']:.3f} |")
    if missed := check(rows):
        raise SystemExit("\n".join(["bench_distributed: missed", *missed]))


if __name__ == "__main__":
    main()
