"""sample_bpr against reference.py, to the bit, and against the distribution it states."""

import warnings

import pytest
import scipy.stats
import torch
from csr_blocks import random_graph

from mmssl_fast import reference
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.ops.sample_bpr import sample_bpr

pytestmark = pytest.mark.usefixtures("poison")


def uneven_graph(users=60, items=37, full=(0, 7, 8, 59), empty=(3, 9, 10)):
    """Users of every degree, some with every item, some with none."""
    random = torch.Generator().manual_seed(0)
    present = torch.rand(users, items, generator=random) < torch.rand(users, 1, generator=random)
    present[:, 0], present[:, 1] = True, False
    present[list(full)], present[list(empty)] = True, False
    return InteractionGraph.from_pairs(*present.nonzero(as_tuple=True), users, items)


GRAPHS = {
    "uneven": uneven_graph,
    "no full user": lambda: uneven_graph(full=(), empty=(3,)),
    "only full and empty but one": lambda: InteractionGraph.from_pairs([0, 0, 1, 3, 3], [0, 1, 1, 0, 1], 4, 2),
    "full first": lambda: InteractionGraph.from_pairs([0, 0, 0, 1, 2], [0, 1, 2, 1, 0], 3, 3),
    "full last": lambda: InteractionGraph.from_pairs([0, 1, 2, 2, 2], [2, 1, 0, 1, 2], 3, 3),
    "sparse": lambda: random_graph(401, 1271, 0.01),
}


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("batch", [0, 1, 5, 41, 1024])
@pytest.mark.parametrize("seed, offset", [(0, 0), (2**64 - 1, 2**32 - 1), (12345678901, 3)])
@pytest.mark.parametrize("name", GRAPHS)
def test_sample_bpr_equals_reference_over_interactions(name, batch, seed, offset, index):
    graph = GRAPHS[name]()
    graph.col = graph.col.to(index)
    actual, expected = sample_bpr(graph, batch, seed, offset), None
    if batch:
        expected = reference.sample_bpr(graph, batch, seed, offset)
        assert all(torch.equal(a, b) and a.dtype == torch.int64 for a, b in zip(actual, expected, strict=True))
    assert all(x.shape == (batch,) for x in actual)
    check_triples(graph, *actual)


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("seed, offset", [(0, 0), (12345678901, 3)])
@pytest.mark.parametrize(
    "name, batch", [("uneven", 1), ("uneven", 41), ("uneven", 53), ("full first", 2), ("sparse", 200)]
)
def test_sample_bpr_equals_reference_over_users(name, batch, seed, offset):
    graph = GRAPHS[name]()
    actual = sample_bpr(graph, batch, seed, offset, over="users")
    expected = reference.sample_bpr(graph, batch, seed, offset, over="users")
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    check_triples(graph, *actual)
    assert actual[0].unique().numel() == batch


def check_triples(graph, users, pos, neg):
    has = reference.seen_mask(graph.crow, graph.col, graph.n_items)
    assert has[users, pos].all() and not has[users, neg].any()


@pytest.mark.filterwarnings("ignore:sample_bpr")
def test_sample_bpr_is_uniform_over_interactions_and_over_negatives():
    graph = uneven_graph(users=12, items=9, full=(2,), empty=(5,))
    users, pos, neg = sample_bpr(graph, 60_000, 11)
    has = reference.seen_mask(graph.crow, graph.col, graph.n_items)
    eligible = has & ~has.all(1, keepdim=True)
    drawn = torch.bincount(users * 9 + pos, minlength=12 * 9).view(12, 9)
    assert scipy.stats.chisquare(drawn[eligible].numpy()).pvalue > 1e-3 and not drawn[~eligible].any()
    unseen = ~has
    expected = eligible.sum(1, keepdim=True).double() * unseen / unseen.sum(1, keepdim=True).clamp(min=1)
    expected = expected / expected.sum() * 60_000
    drawn = torch.bincount(users * 9 + neg, minlength=12 * 9).view(12, 9)
    assert scipy.stats.chisquare(drawn[expected > 0].numpy(), expected[expected > 0].numpy()).pvalue > 1e-3


@pytest.mark.filterwarnings("ignore:sample_bpr")
def test_sample_bpr_over_users_is_uniform():
    graph = uneven_graph(users=12, items=9, full=(2,), empty=(5,))
    first = torch.stack([sample_bpr(graph, 3, 11, offset, over="users")[0] for offset in range(3000)])
    drawn = torch.bincount(first.flatten(), minlength=12)
    assert drawn[[2, 5]].sum() == 0
    assert scipy.stats.chisquare(drawn[drawn > 0].numpy()).pvalue > 1e-3


def test_sample_bpr_does_not_depend_on_the_batch_or_the_threads(threads):
    graph = GRAPHS["sparse"]()
    whole = sample_bpr(graph, 5000, 3)
    threads(1)
    assert all(torch.equal(a, b) for a, b in zip(whole, sample_bpr(graph, 5000, 3), strict=True))
    assert all(torch.equal(a[:700], b) for a, b in zip(whole, sample_bpr(graph, 700, 3), strict=True))
    other = sample_bpr(graph, 5000, 3, 1)
    assert not any(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_sample_bpr_says_once_how_many_users_are_left_out():
    graph = uneven_graph()
    with pytest.warns(
        UserWarning, match=r"^sample_bpr: 4 of 60 users interacted with every item; they have no negative item and"
    ):
        sample_bpr(graph, 5, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_bpr(graph, 5, 0)
        sample_bpr(GRAPHS["no full user"](), 5, 0)


def test_sample_bpr_opcheck():
    graph = GRAPHS["sparse"]()
    none = torch.empty(0, dtype=torch.int64)
    seed_offset = torch.tensor([5, 0])
    torch.library.opcheck(torch.ops.mmssl_fast.sample_bpr, (graph.crow, graph.col, none, 1271, 7, seed_offset))
    torch.library.opcheck(torch.ops.mmssl_fast.sample_bpr_users, (graph.crow, graph.col, 1271, 7, seed_offset))


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("over", ["interactions", "users"])
def test_sample_bpr_compiles_fullgraph(over):
    graph = uneven_graph()
    torch._dynamo.reset()
    compiled = torch.compile(lambda step: sample_bpr(graph, 40, 5, step, over), fullgraph=True, backend="aot_eager")
    for step in range(3):
        actual, expected = compiled(step), sample_bpr(graph, 40, 5, step, over)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.filterwarnings("ignore:sample_bpr")
def test_sample_bpr_refuses():
    graph, everything = uneven_graph(), InteractionGraph.from_pairs([0, 0], [0, 1], 2, 2)
    with pytest.raises(ValueError, match=r'^sample_bpr: over must be "interactions" or "users", got'):
        sample_bpr(graph, 5, 0, over="items")
    with pytest.raises(
        ValueError, match=r"^sample_bpr: no user has both a positive and a negative item \(2 users, 2 items"
    ):
        sample_bpr(everything, 5, 0)
    message = '^sample_bpr: over="users" draws without replacement, but batch is 54 and only 53 of 60 users have both'
    with pytest.raises(ValueError, match=message):
        sample_bpr(graph, 54, 0, over="users")
    with pytest.raises(ValueError, match=r"^sample_bpr: batch must not be negative, got -1"):
        sample_bpr(graph, -1, 0)
    for full, wrong in [
        ([0, 1], "1. = 1 has"),
        ([60], r"must be ascending and in \[0, 60\), got 60"),
        ([7, 0], "got 0 at position 1"),
    ]:
        with pytest.raises(ValueError, match="^sample_bpr: full_users.*" + wrong):
            torch.ops.mmssl_fast.sample_bpr(graph.crow, graph.col, torch.tensor(full), 37, 5, torch.tensor([0, 0]))
