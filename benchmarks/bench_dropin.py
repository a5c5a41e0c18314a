"""mmssl_fast.dropin.sparse under LightGCN-type models that call torch.sparse.mm: their propagation, and an epoch.

The models are those of the tests: two layers of LightGCN on the joint graph, and the same with an additional frozen
graph of the ten most similar items of every item, as in FREEDOM. They do not use mmssl_fast themselves. Also: a graph
that loses a fifth of its edges at every step; products by layout, size and width, from which `dropin.sparse.cost` takes
its numbers; and PyTorch Geometric's LightGCN, where it is installed.
"""

import copy
import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from registry import DEVICE, Shape, compare, normal, permutation

from mmssl_fast.dropin import hkuds, pyg, sparse
from mmssl_fast.dropin.sparse import cost

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from dropin_clients import lightgcn

WIDTH, BATCH = 64, 2048
SMALL = ((75, 50, 400), (150, 100, 1500), (300, 200, 3000), (600, 400, 6000), (900, 600, 10000), (2000, 1000, 30000))


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
        """The metrics after one epoch from the same initialisation."""
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


def accelerated(call, always=False):
    def inside():
        with sparse.accelerated(always=always):
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


@pytest.mark.parametrize("kept", ["pattern", "fewer edges"])
def test_dropin_edge_dropout(benchmark, shape, kept):
    """A step of a two-layer model, whose graph has other values or fewer entries each time."""
    adjacency = Catalogue(shape.graph()).model("LightGCN").adjacency.coalesce()
    x = normal(adjacency.shape[0], WIDTH).requires_grad_()
    random = torch.Generator(DEVICE).manual_seed(0)

    def call():
        keep = torch.rand(adjacency._nnz(), device=DEVICE, generator=random) > 0.2
        if kept == "pattern":
            graph = torch.sparse_coo_tensor(adjacency._indices(), adjacency._values() * keep, adjacency.shape)
        else:
            graph = torch.sparse_coo_tensor(adjacency._indices()[:, keep], adjacency._values()[keep], adjacency.shape)
        return torch.autograd.grad(torch.sparse.mm(graph, torch.sparse.mm(graph, x)).square().sum(), x)[0]

    def seeded(call):
        random.manual_seed(0)
        return call()

    def check(actual, expected):
        torch.testing.assert_close(seeded(accelerated(call)), seeded(call), rtol=1e-4, atol=1e-6)

    compare(
        benchmark, accelerated(call), call, check, shape=shape, peer_name="torch.sparse.mm, COO", rounds=10, kept=kept
    )


@pytest.mark.parametrize("batch", [256, 1024])
@pytest.mark.parametrize("small", [Shape(f"{u + i}nodes", u, i, e, ()) for u, i, e in SMALL], ids=str)
def test_dropin_small_step(benchmark, small, batch):
    """Four training steps on a graph so small that Python is most of the time; from 250 nodes on ours is the faster."""
    random = torch.Generator().manual_seed(0)
    users, items = (torch.randint(n, (small.interactions,), generator=random) for n in (small.users, small.items))
    users, items = users.to(DEVICE), items.to(DEVICE)

    def steps():
        torch.manual_seed(0)
        negatives = torch.Generator().manual_seed(0)
        adjacency = lightgcn.joint_adjacency(users, items, small.users, small.items)
        model = lightgcn.LightGCN(adjacency, small.users, small.items, width=WIDTH, layers=3).to(DEVICE)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

        def call():
            for _ in range(4):
                optimiser.zero_grad()
                negative = torch.randint(small.items, users[:batch].shape, generator=negatives)
                loss = model.loss(users[:batch], items[:batch], negative.to(DEVICE))
                loss.backward()
                optimiser.step()
            return loss.detach()

        return call

    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)

    ours, peer = steps(), steps()
    compare(
        benchmark, accelerated(ours), peer, check, shape=small, peer_name="torch.sparse.mm, COO", rounds=40, batch=batch
    )


@pytest.mark.parametrize("width", [1, 16, 64, 256])
@pytest.mark.parametrize("entries", [500, 1000, 2000, 4000, 20000, 120000])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("backward", [False, True])
def test_dropin_rule(benchmark, tiktok, layout, entries, width, backward):
    """A prepared matrix, every product taken: the ratio is to be above 1 wherever `cost.gain` is above 0."""
    n = entries // 8
    indices = torch.randint(n, (2, entries), generator=torch.Generator().manual_seed(0))
    matrix = torch.sparse_coo_tensor(indices, torch.full((entries,), 0.1), (n, n)).coalesce().to(DEVICE)
    matrix = {"coo": lambda: matrix, "csr": matrix.to_sparse_csr, "csc": matrix.to_sparse_csc}[layout]()
    x = normal(n, width).requires_grad_(backward)

    def call(mm):
        y = x
        for _ in range(3):  # as a model has layers: the first product after other code takes longer
            y = mm(matrix, y)
        return torch.autograd.grad(y, x, y.detach())[0] if backward else y

    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)

    gain = cost.gain(matrix.layout, matrix._nnz(), matrix.shape, width, backward=backward)
    info = {"layout": layout, "entries": entries, "d": width, "backward": backward, "counted_gain_ns": gain}
    compare(
        benchmark,
        lambda: call(functools.partial(sparse.mm, always=True)),
        lambda: call(torch.mm),
        check,
        shape=tiktok,
        peer_name=f"torch.mm, {layout.upper()}",
        rounds=30 if entries < 20000 else 10,
        **info,
    )


@pytest.mark.parametrize("edges", ["constant", "new every step"])
def test_dropin_pyg_lightgcn(benchmark, tiktok, edges):
    nn = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    catalogue = Catalogue(tiktok.graph())
    users, items = catalogue.train
    there = torch.stack((users, items + catalogue.n_users))
    edge_index = torch.cat((there, there.flip(0)), 1)
    torch.manual_seed(0)
    peer = nn.LightGCN(catalogue.n_users + catalogue.n_items, WIDTH, num_layers=3).to(DEVICE)
    ours = copy.deepcopy(peer)
    pyg.accelerate(ours)

    def step(model):
        graph = edge_index if edges == "constant" else edge_index.clone()
        rank = model(graph, torch.cat((there[:, :BATCH], there[:, :BATCH].roll(1, 1)), 1))
        loss = model.recommendation_loss(*rank.chunk(2))
        return torch.autograd.grad(loss, model.embedding.weight)[0]

    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)

    compare(
        benchmark,
        lambda: step(ours),
        lambda: step(peer),
        check,
        shape=tiktok,
        peer_name="torch_geometric.nn.LightGCN",
        rounds=10,
        edges=edges,
    )
