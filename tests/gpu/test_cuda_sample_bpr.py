"""csrc/cuda/sample_bpr on the emulator: the CPU's triples to the bit."""

import pytest
import torch
from csr_blocks import random_graph
from test_sample_bpr import GRAPHS

from mmssl_fast.graph import InteractionGraph

pytestmark = pytest.mark.usefixtures("poison")

SEEDS = [(0, 0), (-1, 2**32 - 1), (12345678901, 3)]


def arguments(graph, batch, seed, offset):
    return graph.n_items, batch, torch.tensor([seed, offset])


def assert_equal(actual, expected):
    assert all(torch.equal(a, b) and a.dtype == torch.int64 for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("batch", [0, 1, 5, 1000])
@pytest.mark.parametrize("seed, offset", SEEDS)
@pytest.mark.parametrize("name", GRAPHS)
def test_over_interactions(emulated, name, batch, seed, offset, index):
    graph = GRAPHS[name]()
    where = graph.crow, graph.col.to(index), graph.full_users(), *arguments(graph, batch, seed, offset)
    assert_equal(emulated.sample_bpr(*where), torch.ops.mmssl_fast.sample_bpr(*where))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("seed, offset", SEEDS)
@pytest.mark.parametrize("name", GRAPHS)
def test_over_users(emulated, name, seed, offset, index):
    graph = GRAPHS[name]()
    for batch in {0, 1, graph.n_eligible // 2, graph.n_eligible}:
        where = graph.crow, graph.col.to(index), *arguments(graph, batch, seed, offset)
        assert_equal(emulated.sample_bpr_users(*where), torch.ops.mmssl_fast.sample_bpr_users(*where))


def test_among_two_billion_items(emulated):
    n_items = 2**31 - 1
    crow, col = torch.tensor([0, 2, 2, 3]), torch.tensor([3, n_items - 1, n_items - 2])
    where = crow, col, torch.zeros(0, dtype=torch.int64), n_items, 500, torch.tensor([7, 1])
    actual = emulated.sample_bpr(*where)
    assert_equal(actual, torch.ops.mmssl_fast.sample_bpr(*where))
    assert actual[2].max() > 2**30


def test_more_users_than_are_eligible_stop_the_kernel(emulated):
    graph = GRAPHS["uneven"]()
    with pytest.raises(RuntimeError, match="degree"):
        emulated.sample_bpr_users(graph.crow, graph.col, *arguments(graph, graph.n_eligible + 1, 5, 0))


def test_the_graph_knows_how_many_are_eligible():
    for make in GRAPHS.values():
        graph = make()
        degree = graph.crow.diff()
        assert graph.n_eligible == ((degree > 0) & (degree < graph.n_items)).sum()
        assert graph.max_degree == degree.max()
    nobody = InteractionGraph.from_pairs([], [], 0, 5)
    assert (nobody.n_eligible, nobody.max_degree) == (0, 0)


def test_refuses(emulated):
    graph, everything = random_graph(5, 7, 0.3), InteractionGraph.from_pairs([0, 0], [0, 1], 2, 2)
    none, at = graph.full_users(), torch.tensor([5, 0])
    with pytest.raises(ValueError, match=r"^sample_bpr: no user has both a positive and a negative item \(2 users"):
        emulated.sample_bpr(everything.crow, everything.col, everything.full_users(), 2, 5, at)
    with pytest.raises(ValueError, match=r"^sample_bpr: batch must not be negative, got -1"):
        emulated.sample_bpr(graph.crow, graph.col, none, 7, -1, at)
    with pytest.raises(ValueError, match=r"^sample_bpr: .*batch is 6, there are only 5 users"):
        emulated.sample_bpr_users(graph.crow, graph.col, 7, 6, at)
    with pytest.raises(ValueError, match=r"^sample_bpr: there must be fewer than 2"):
        emulated.sample_bpr_users(graph.crow, graph.col, 2**31, 3, at)
    with pytest.raises(ValueError, match=r"^sample_bpr: full_users must be contiguous int64, got Int"):
        emulated.sample_bpr(graph.crow, graph.col, none.int(), 7, 3, at)
    with pytest.raises(ValueError, match=r"^sample_bpr: seed_offset must be contiguous int64 \[2\]"):
        emulated.sample_bpr(graph.crow, graph.col, none, 7, 3, at[:1])
