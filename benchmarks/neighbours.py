"""The clustered search for semantic neighbours beside the exact one: CPU time of both, and the share that is found.

    python -P benchmarks/neighbours.py [--users 200000] [--items 200000] [--threads 1]

Users and items gather around 300 random points, as the features of a catalogue do. The exact search is measured for
some of the users, evenly spaced, and its time is multiplied.
"""

import argparse
import time

import torch

from mmssl_fast import InteractionGraph, SeenRows
from mmssl_fast.nn.clustered import clustered_neighbours
from mmssl_fast.ops.cosine_topk import cosine_topk

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
    shared = (exact[:, :, None] == found[sample][:, None, :]).any(2).float().mean().item()
    print(f"{graph}: {search.probes} of {search.clusters} clusters, measured recall {search.recall:.3f}")
    print(
        f"recall over {len(sample)} users {shared:.3f}; CPU time of exact by clustered:", *(f"{r:.1f}" for r in ratios)
    )


if __name__ == "__main__":
    main()
