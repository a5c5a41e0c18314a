"""mmssl_fast.dropin.sparse under LightGCN-type models that call torch.sparse.mm: their propagation, and an epoch.

The models are those of the tests: two layers of LightGCN on the joint graph, and the same with an additional frozen
graph of the ten most similar items of every item, as in FREEDOM. They do not use mmssl_fast themselves.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from registry import DEVICE, compare, normal, permutation

from mmssl_fast.dropin import hkuds, sparse

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from dropin_clients import lightgcn

WIDTH, BATCH = 64, 2048


class Catalogue:
    """The interactions of a graph in a fixed random order, with a tenth of them held out."""

    def __init__(self, graph) -> None:
        order = permutation(graph.nnz)
        users, items = torch.repeat_interleave(graph.user_degree)[order], graph.col.long()[order]
        cut = graph.nnz // 10
        self.n_users, self.n_items, self.train = graph.n_users, graph.n_items, (users[cut:], items[cut:])
        self.heldout, self.seen = lists(users[:cut], items[:cut]), lists(users[cut:], items[cut:])

    def model(self, kind: str):
        torch.manual_seed(0)
        adjacency = lightgcn.joint_adjacency(*self.train, self.n_users, self.n_items)
        sizes = {"n_users": self.n_users, "n_items": self.n_items, "width": WIDTH}
        if kind == "LightGCN":
            return lightgcn.LightGCN(adjacency, **sizes).to(DEVICE)
        return lightgcn.FrozenItemGraph(adjacency, normal(self.n_items, 128), k=10, **sizes).to(DEVICE)

    def epoch(self, kind: str) -> dict:
        """The metrics after one epoch from the same initialization."""
        model = self.model(kind)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
        for users, items in zip(*(ids.split(BATCH) for ids in self.train), strict=True):
            optimiser.zero_grad()
            model.loss(users, items, torch.randint(self.n_items, users.shape, device=DEVICE)).backward()
            optimiser.step()
        with torch.no_grad():
            return hkuds.evaluate(*model(), list(self.heldout), self.heldout, self.seen, [10, 20])


def lists(users, items) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for user, item in zip(users.tolist(), items.tolist(), strict=True):
        found.setdefault(user, []).append(item)
    return found


def accelerated(call):
    def inside():
        with sparse.accelerated():
            return call()

    return inside


@pytest.mark.parametrize("kind", ["LightGCN", "frozen item graph"])
def test_dropin_propagation(benchmark, shape, kind):
    model = Catalogue(shape.graph()).model(kind)
    weights = list(model.parameters())

    def call():
        users, items = model()
        return torch.autograd.grad(users.square().sum() + items.square().sum(), weights)

    def check(actual, expected):
        for pair in zip(actual, expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6)

    compare(
        benchmark, accelerated(call), call, check, shape=shape, peer_name="torch.sparse.mm, COO", rounds=10, d=WIDTH
    )


@pytest.mark.parametrize("kind", ["LightGCN", "frozen item graph"])
def test_dropin_epoch(benchmark, tiktok, kind):
    catalogue = Catalogue(tiktok.graph())

    def check(actual, expected):
        assert expected["recall"][1] > 0
        for name in expected:
            assert np.allclose(actual[name], expected[name], rtol=0, atol=5e-5), (
                f"{name}: {actual[name]}, {expected[name]}"
            )

    def call():
        return catalogue.epoch(kind)

    compare(benchmark, accelerated(call), call, check, shape=tiktok, peer_name="torch.sparse.mm, COO", rounds=2)
