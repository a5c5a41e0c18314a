"""The clustered search for semantic neighbours beside the exact one and, if faiss-cpu is installed, its IndexIVFFlat:
CPU time, and the share that is found.

    python -P benchmarks/neighbours.py [--users 200000] [--items 200000] [--threads 1]

Users and items gather around 300 random points, as the features of a catalogue do. The exact search is measured for
some of the users, evenly spaced, and its time is multiplied. faiss gets the same number of clusters, and probes the
fewest of them, a power of two, with which it finds as much of a sample as ours. It has no search that leaves out the
seen items of a user: it is asked for as many neighbours more as users have seen items, and these are removed after it.
"""

import argparse
import time

import numpy as np
import torch

try:
    import faiss
except ImportError:
    faiss = None

from mmssl_fast import InteractionGraph, SeenRows
from mmssl_fast.nn.clustered import LEAST_RECALL, clustered_neighbours
from mmssl_fast.ops.cosine_topk import cosine_topk
from mmssl_fast.ops.unit_rows import unit_rows

WIDTH, POINTS, NEIGHBOURS, SEEN, EXACT = 64, 300, 10, 10, 4000


def catalogue(n_users: int, n_items: int) -> tuple[torch.Tensor, torch.Tensor, InteractionGraph]:
    random = torch.Generator().manual_seed(0)
    points = torch.randn(POINTS, WIDTH, generator=random)
    topic = torch.randint(POINTS, (n_items,), generator=random)
    items = points[topic] + 0.7 * torch.randn(n_items, WIDTH, generator=random)
    # A user is the mean of its items; most of them are of one topic.
    by_topic = torch.argsort(topic)
    first = torch.searchsorted(topic[by_topic], torch.randint(POINTS, (n_users, 1), generator=random))
    columns = torch.randint(n_items, (n_users, SEEN), generator=random)
    within = torch.randint(max(1, n_items // (2 * POINTS)), (n_users, 6), generator=random)
    columns[:, :6] = by_topic[(first + within).clamp_max(n_items - 1)]
    rows = torch.arange(n_users).repeat_interleave(SEEN)
    graph = InteractionGraph.from_pairs(rows, columns.flatten(), n_users=n_users, n_items=n_items)
    return items[columns].mean(1), items, graph


def with_faiss(users: torch.Tensor, items: torch.Tensor, clusters: int, probes: int) -> np.ndarray:
    """int64 [U, NEIGHBOURS + SEEN]: the best items in the clusters closest to each user, seen ones included."""
    users, items = (unit_rows(side).numpy() for side in (users, items))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, clusters, faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    index.nprobe = probes
    return index.search(users, NEIGHBOURS + SEEN)[1]


def unseen(found: np.ndarray, graph: InteractionGraph, users: torch.Tensor) -> torch.Tensor:
    """int64 [len(users), NEIGHBOURS]: the first items of each of these users that it has not seen."""
    seen = graph.rows(users)
    rows = torch.arange(len(users)).repeat_interleave(seen.crow.diff())
    keys = rows * graph.n_items + seen.col
    found = torch.from_numpy(found)
    known = torch.isin(found + torch.arange(len(users))[:, None] * graph.n_items, keys) | (found < 0)
    order = known.to(torch.uint8).argsort(dim=1, stable=True)[:, :NEIGHBOURS]
    return torch.where(known.gather(1, order), -1, found.gather(1, order))


def share(exact: torch.Tensor, found: torch.Tensor) -> float:
    return (exact[:, :, None] == found[:, None, :]).any(2).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    users, items, graph = catalogue(chosen.users, chosen.items)
    sample = torch.arange(0, chosen.users, max(1, chosen.users // EXACT))
    ratios = []
    for _ in range(3):
        begun = time.process_time()
        exact = cosine_topk(users[sample], items, NEIGHBOURS, graph.rows(sample))[1]
        between = time.process_time()
        found, search = clustered_neighbours(users, items, NEIGHBOURS, SeenRows(graph.crow, graph.col))
        ended = time.process_time()
        ratios.append((between - begun) * chosen.users / len(sample) / (ended - between))
    shared = share(exact, found[sample])
    print(f"{graph}: {search.probes} of {search.clusters} clusters, measured recall {search.recall:.3f}")
    print(
        f"recall over {len(sample)} users {shared:.3f}; CPU time of exact by clustered:", *(f"{r:.1f}" for r in ratios)
    )
    if faiss is None:
        print("faiss-cpu is not installed; it is not measured")
        return
    faiss.omp_set_num_threads(chosen.threads)
    probes, recall = 1, 0.0
    while recall < min(shared, LEAST_RECALL):  # on the sample only
        probes *= 2
        recall = share(exact, unseen(with_faiss(users[sample], items, search.clusters, probes), graph, sample))
    ratios = []
    for _ in range(3):
        begun = time.process_time()
        clustered_neighbours(users, items, NEIGHBOURS, SeenRows(graph.crow, graph.col))
        between = time.process_time()
        listed = with_faiss(users, items, search.clusters, probes)
        ratios.append((time.process_time() - between) / (between - begun))
    recall = share(exact, unseen(listed[sample.numpy()], graph, sample))
    print(
        f"faiss-cpu {faiss.__version__} IndexIVFFlat, {probes} of {search.clusters} clusters: recall {recall:.3f}; CPU "
        "time of faiss by clustered:",
        *(f"{r:.1f}" for r in ratios),
    )


if __name__ == "__main__":
    main()
