"""sample_bpr against the usual sampler in Python, which draws items until one is not in the set of the user."""

import random
from itertools import pairwise

import pytest
import torch
from registry import compare, shapes

from mmssl_fast import reference
from mmssl_fast.ops.sample_bpr import sample_bpr


@pytest.mark.parametrize("over", ["interactions", "users"])
@pytest.mark.parametrize("batch", [1024, 8192])
@pytest.mark.parametrize("shape", shapes("200k"), ids=str)
def test_sample_bpr(benchmark, shape, batch, over):
    graph = shape.graph()
    crow, col = graph.crow.tolist(), graph.col.tolist()
    items = [col[a:b] for a, b in pairwise(crow)]
    sets = [set(row) for row in items]
    pairs = [(user, item) for user, row in enumerate(items) for item in row]
    generator = random.Random(0)

    def python_sampler():
        if over == "users":
            chosen = [(u, generator.choice(items[u])) for u in generator.sample(range(graph.n_users), batch)]
        else:
            chosen = [generator.choice(pairs) for _ in range(batch)]
        negatives = []
        for user, _ in chosen:
            item = generator.randrange(graph.n_items)
            while item in sets[user]:
                item = generator.randrange(graph.n_items)
            negatives.append(item)
        users, positives = zip(*chosen, strict=True)
        return torch.tensor(users), torch.tensor(positives), torch.tensor(negatives)

    expected = reference.sample_bpr(graph, batch, 7, 3, over)

    def check(actual, peer):
        for a, b, c in zip(actual, expected, peer, strict=True):
            assert torch.equal(a, b) and a.shape == c.shape

    compare(
        benchmark,
        lambda: sample_bpr(graph, batch, 7, 3, over),
        python_sampler,
        check,
        shape=shape,
        batch=batch,
        rounds=20,
        peer_name="Python loop over sets",
    )
