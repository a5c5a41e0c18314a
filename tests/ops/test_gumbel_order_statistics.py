"""gumbel_order_statistics: the same rows as reference.py's, with the distribution of the dense evaluation."""

import pytest
import scipy.stats
import torch
from csr_blocks import random_graph

from mmssl_fast import reference, static_shapes
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.ops import gumbel_rows
from mmssl_fast.ops.gumbel_method import choose_method, entry_capacity, expected_draws, gumbel_method
from mmssl_fast.ops.gumbel_rows import gumbel_order_statistics
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax
from mmssl_fast.relation import RelationRows

pytestmark = pytest.mark.usefixtures("poison")

# users, items, share of all pairs, tau, noise_scale: few draws, many, every item, one item, all seen, none seen
CASES = [
    (9, 401, 0.05, 0.085, 1.0),
    (9, 1271, 0.01, 0.2, 1.0),
    (5, 1271, 0.01, 0.3, 1.0),
    (9, 41, 0.1, 0.9, 1.0),
    (9, 41, 0.1, 0.9, 3.0),
    (9, 41, 0.1, 0.02, 0.05),
    (9, 401, 0.05, 1e-3, 1.0),
    (7, 1, 0.5, 0.2, 1.0),
    (9, 60, 1.0, 0.2, 1.0),
    (9, 60, 0.0, 0.2, 1.0),
]


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("users, items, share, tau, noise_scale", CASES)
def test_order_statistics_equal_reference(users, items, share, tau, noise_scale, index):
    graph = random_graph(users, items, share)
    graph.col = graph.col.to(index)
    ids = torch.arange(users).flip(0)
    crow, col, value = gumbel_order_statistics(graph, ids, tau, 2**40 + 1, 3, noise_scale)
    expected = reference.gumbel_order_statistics(graph, ids, tau, 2**40 + 1, 3, noise_scale)
    assert torch.equal(crow, expected[0]) and torch.equal(col, expected[1]) and col.dtype == index
    torch.testing.assert_close(value, expected[2], rtol=1e-6, atol=1e-30)


def test_order_statistics_rows():
    """Every seen item is there, items ascend, values are a softmax, and equal users have equal rows."""
    graph = random_graph(41, 401, 0.05)
    ids = torch.tensor([3, 40, 3, 1])
    crow, col, value = gumbel_order_statistics(graph, ids, 0.2, 7)
    rows = [(col[a:b], value[a:b]) for a, b in zip(crow[:-1].tolist(), crow[1:].tolist(), strict=True)]
    for user, (items, weights) in zip(ids.tolist(), rows, strict=True):
        seen = graph.col[graph.crow[user] : graph.crow[user + 1]]
        assert set(seen.tolist()) <= set(items.tolist())
        assert (items.diff() > 0).all() and items[0] >= 0 and items[-1] < 401
        assert abs(weights.double().sum().item() - 1) < 1e-6
    assert torch.equal(rows[0][0], rows[2][0]) and torch.equal(rows[0][1], rows[2][1])
    assert not torch.equal(rows[0][1][:5], rows[1][1][:5])


def test_order_statistics_when_all_is_drawn_weigh_as_the_dense_rows_do():
    """At tau near 1 nothing is left out, and what is seen has the dense evaluation's own noise."""
    graph = random_graph(41, 30, 0.4)
    users = torch.arange(41)
    crow, col, value = gumbel_order_statistics(graph, users, 0.95, 7)
    assert torch.equal(crow.diff(), torch.full((41,), 30)) and torch.equal(col.view(41, 30)[0], torch.arange(30).int())
    sparse, dense = value.view(41, 30).double(), gumbel_softmax(graph, users, 0.95, 7, method="dense").double()
    for user in range(41):
        seen = graph.col[graph.crow[user] : graph.crow[user + 1]].long()
        if seen.numel() > 1:
            ratios = [rows[user, seen] / rows[user, seen[0]] for rows in (sparse, dense)]
            torch.testing.assert_close(*ratios, rtol=1e-4, atol=0)


def test_order_statistics_do_not_depend_on_the_batch_or_the_threads(threads):
    graph = random_graph(401, 1271, 0.02)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(gumbel_order_statistics(graph, torch.arange(401), 0.2, 5))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    _, col, value = gumbel_order_statistics(graph, torch.arange(100, 200), 0.2, 5)
    first, last = results[0][0][100].item(), results[0][0][200].item()
    assert torch.equal(col, results[0][1][first:last]) and torch.equal(value, results[0][2][first:last])


def test_order_statistics_dense_form_is_the_block():
    graph = random_graph(41, 401, 0.05)
    crow, col, value = gumbel_order_statistics(graph, torch.arange(41), 0.2, 5)
    rows = torch.zeros(41, 401)
    rows[reference.row_ids(crow), col.long()] = value
    assert torch.equal(gumbel_softmax(graph, torch.arange(41), 0.2, 5, method="order_statistics"), rows)


# Each user of this graph has the same three items, so a batch of users is a sample of one row's distribution.
SAMPLE, ITEMS, SEEN = 6000, 300, [0, 17, 250]


@pytest.fixture(scope="module")
def samples():
    users = torch.arange(SAMPLE).repeat_interleave(len(SEEN))
    graph = InteractionGraph.from_pairs(users, torch.tensor(SEEN).repeat(SAMPLE), SAMPLE, ITEMS)
    ids = torch.arange(SAMPLE)
    return {
        tau: (
            gumbel_softmax(graph, ids, tau, 1, method="order_statistics").double(),
            gumbel_softmax(graph, ids, tau, 2, method="dense").double(),
        )
        for tau in (0.085, 0.2, 0.5, 0.9)
    }


STATISTICS = {
    "largest weight": lambda rows: rows.amax(1),
    "second largest weight": lambda rows: rows.topk(2, 1).values[:, 1],
    "entropy": lambda rows: -(rows * rows.clamp(min=1e-300).log()).sum(1),
    "squared norm": lambda rows: rows.square().sum(1),
    "weight of the seen": lambda rows: rows[:, SEEN].sum(1),
    "weight of half the unseen": lambda rows: rows[:, 20:150].sum(1),
}


@pytest.mark.parametrize("tau", [0.085, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", STATISTICS)
def test_order_statistics_distribution(samples, name, tau):
    # What is under 2⁻²⁴ of the largest weight is 0 in one and not in the other.
    sparse, dense = (STATISTICS[name](rows).clamp(min=1e-6).numpy() for rows in samples[tau])
    # With 6000 rows each a distance of 0.036 has probability 1e-3; the seeds are fixed.
    assert scipy.stats.ks_2samp(sparse, dense).pvalue > 1e-3


@pytest.mark.parametrize("tau", [0.085, 0.2, 0.5, 0.9])
def test_order_statistics_winner(samples, tau):
    """Gumbel-max: an item wins with probability softmax(A / 1), whatever tau is (the noise is not divided alone)."""
    sparse, dense = samples[tau]
    share = torch.ones(ITEMS, dtype=torch.float64)
    share[SEEN] = torch.e
    for rows in (sparse, dense):
        wins = torch.bincount(rows.argmax(1), minlength=ITEMS)
        assert scipy.stats.chisquare(wins.numpy(), (SAMPLE * share / share.sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("tau, draws", [(0.085, 3.8), (0.2, 45.3), (0.25, 177.5)])
def test_expected_draws(tau, draws):
    assert abs(expected_draws(tau) - draws) < 0.1
    graph = InteractionGraph.from_pairs([], [], 4000, 100_000)
    crow, _, _ = gumbel_order_statistics(graph, torch.arange(4000 if tau < 0.25 else 400), tau, 3)
    assert 0.9 < crow.diff().double().mean().item() / draws < 1.6


def test_what_order_statistics_leave_out_is_negligible():
    """Rows ended at 2⁻²⁴ against rows of the same dense noise cut at as many items: the mass beyond is tiny."""
    graph = random_graph(401, 1271, 0.01)
    users = torch.arange(401)
    crow, _, _ = gumbel_order_statistics(graph, users, 0.2, 5)
    ordered = gumbel_softmax(graph, users, 0.2, 6, method="dense").double().sort(1, descending=True).values
    kept = torch.arange(1271) < crow.diff().double().mean().item()
    left = (ordered * ~kept).sum(1) / ordered[:, 0]
    assert left.mean().item() < 2.0**-18


@pytest.mark.parametrize(
    "tau, noise_scale, n_items, method",
    [
        (0.085, 1.0, 6710, "order_statistics"),
        (0.25, 1.0, 6710, "order_statistics"),
        (0.27, 1.0, 6710, "dense"),
        (0.3, 1.0, 100_000, "order_statistics"),
        (0.4, 1.0, 100_000, "dense"),
        (0.085, 1.0, 41, "dense"),
        (0.2, 0.0, 6710, "dense"),
        (0.2, 0.2, 6710, "dense"),
        (1.0, 1.0, 10**9, "dense"),
        (0.4, 2.0, 6710, "order_statistics"),
        (1e-3, 1.0, 6710, "order_statistics"),
        (0.999, 1.0, 2**31 - 1, "dense"),
    ],
)
def test_gumbel_method(tau, noise_scale, n_items, method):
    assert gumbel_method(tau, noise_scale, n_items) == method
    assert choose_method("op", "auto", tau, noise_scale, n_items) == method


def test_order_statistics_opcheck():
    graph = random_graph(5, 70, 0.1)
    arguments = (graph.crow, graph.col, torch.arange(5), 70, 0.3, torch.tensor([5, 0]), 1.0, 0)
    torch.library.opcheck(torch.ops.mmssl_fast.gumbel_order_statistics, arguments)


def test_order_statistics_compile_fullgraph():
    graph, users = random_graph(41, 401, 0.05), torch.arange(41)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda seed: gumbel_order_statistics(graph, users, 0.2, seed)[2].square(), fullgraph=True, backend="aot_eager"
    )
    for seed in (1, 2):
        assert torch.equal(compiled(seed), gumbel_order_statistics(graph, users, 0.2, seed)[2].square())


def test_order_statistics_empty():
    graph = random_graph(5, 70, 0.1)
    crow, col, value = gumbel_order_statistics(graph, torch.empty(0, dtype=torch.int64), 0.2, 5)
    assert crow.tolist() == [0] and col.numel() == value.numel() == 0
    crow, col, value = gumbel_order_statistics(InteractionGraph.from_pairs([], [], 3, 0), torch.arange(3), 0.2, 5)
    assert crow.tolist() == [0] * 4 and col.numel() == value.numel() == 0


@pytest.mark.parametrize("tau, noise_scale", [(1.0, 1.0), (2.0, 1.0), (0.2, 0.1), (0.2, 0.0)])
def test_order_statistics_refuse_a_high_temperature(tau, noise_scale):
    graph = random_graph(5, 70, 0.1)
    message = f"^gumbel_order_statistics: order statistics need tau / noise_scale < 1 .*got {tau:g} / {noise_scale:g}"
    with pytest.raises(ValueError, match=message):
        gumbel_order_statistics(graph, torch.arange(5), tau, 5, 0, noise_scale)


def test_order_statistics_of_distinct_users_need_less_capacity(monkeypatch):
    """RelationRows.gumbel passes the number of repeats to the op."""
    graph, users, seen = random_graph(64, 5000, 0.002), torch.arange(64), []

    def spy(*arguments):
        seen.append(arguments[-1])
        return gumbel_order_statistics(*arguments)

    monkeypatch.setattr(gumbel_rows, "gumbel_order_statistics", spy)
    capacities = []
    with static_shapes.forced():
        for repeats in (1, None):
            RelationRows.gumbel(graph, users, 0.2, 7, max_repeats=repeats).row_norm()
            capacities.append(entry_capacity(graph, users, 0.2, max_repeats=repeats))
    assert seen == capacities and 0 < capacities[0] < capacities[1]
