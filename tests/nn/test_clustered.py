"""Clustered search for the semantic neighbours, against the exact search."""

import pytest
import torch

from mmssl_fast import InteractionGraph, SeenRows
from mmssl_fast.nn import MMSSL, clustered
from mmssl_fast.nn.clustered import clustered_neighbours
from mmssl_fast.ops.cosine_topk import cosine_topk


def topics(n_users, n_items, d=16, count=30, seed=0):
    """Users and items that gather around `count` directions, as features of a catalogue do."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, d, generator=random)
    users, items = (
        centres[torch.randint(count, (n,), generator=random)] + 0.5 * torch.randn(n, d, generator=random)
        for n in (n_users, n_items)
    )
    return users, items


def some_seen(n_users, n_items, each=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    users = torch.arange(n_users).repeat_interleave(each)
    items = torch.randint(n_items, (n_users * each,), generator=random)
    graph = InteractionGraph.from_pairs(users, items, n_users=n_users, n_items=n_items)
    return SeenRows(graph.crow, graph.col)


@pytest.mark.parametrize("with_seen", [False, True])
def test_equals_the_exact_search_if_everything_must_be_found(monkeypatch, with_seen):
    """All 500 users are in the sample, so that a recall of 1 leaves no other result."""
    monkeypatch.setattr(clustered, "LEAST_RECALL", 1.0)
    users, items = topics(500, 400)
    seen = some_seen(500, 400) if with_seen else None
    found, search = clustered_neighbours(users, items, 10, seen)
    assert found.equal(cosine_topk(users, items, 10, seen)[1])
    assert search.recall == 1 and search.clusters == 22


@pytest.mark.parametrize("least", [0.6, 0.9, 0.95])
def test_finds_the_share_that_is_asked_for_with_part_of_the_work(monkeypatch, least):
    monkeypatch.setattr(clustered, "LEAST_RECALL", least)
    users, items = topics(3000, 2500)
    seen = some_seen(3000, 2500)
    found, search = clustered_neighbours(users, items, 10, seen)
    exact = cosine_topk(users, items, 10, seen)[1]
    recall = (exact[:, :, None] == found[:, None, :]).any(2).float().mean().item()
    assert recall >= least - 0.02 and search.recall >= least
    assert abs(recall - search.recall) < 0.02
    assert search.probes < search.clusters / 2


def test_seen_items_are_excluded_and_the_best_come_first():
    users, items = topics(800, 600)
    # The best items of every user are seen.
    best = cosine_topk(users, items, 4)[1].sort(1).values
    seen = SeenRows(torch.arange(0, 801) * 4, best.flatten())
    found, _ = clustered_neighbours(users, items, 6, seen)
    assert not (found[:, :, None] == best[:, None, :]).any()
    similarity = torch.nn.functional.cosine_similarity(users[:, None], items[found], dim=2)
    assert (similarity.diff(dim=1) <= 1e-6).all()


def test_users_with_few_items_left_get_all_of_them(monkeypatch):
    """Two clusters suffice for the recall that is asked for, and do not contain the items that are left."""
    monkeypatch.setattr(clustered, "LEAST_RECALL", 0.0)
    users, items = topics(300, 40)
    crow, col = torch.arange(301) * 37, torch.arange(37).repeat(300)  # 3 of 40 items are left
    found, search = clustered_neighbours(users, items, 5, SeenRows(crow, col), clusters=8)
    assert search.probes == 2
    exact = cosine_topk(users, items, 5, SeenRows(crow, col))[1]
    assert found.equal(exact) and (found[:, 3:] == -1).all() and (found[:, :3] >= 37).all()


@pytest.mark.parametrize("clusters", [1, 7, 400])
def test_any_number_of_clusters(monkeypatch, clusters):
    monkeypatch.setattr(clustered, "LEAST_RECALL", 1.0)
    users, items = topics(200, 400, seed=1)
    found, search = clustered_neighbours(users, items, 3, clusters=clusters)
    assert found.equal(cosine_topk(users, items, 3)[1])
    assert search.clusters == clusters


@pytest.mark.parametrize("clusters", [0, 11, -3])
def test_clusters_out_of_range_are_refused(clusters):
    with pytest.raises(ValueError, match=rf"clusters must be between 1 and 10, got {clusters}"):
        clustered_neighbours(*topics(20, 10), 3, clusters=clusters)


def test_rows_of_zeros_and_nan(monkeypatch):
    """As in the exact search: an item with NaN is never found, and a user with NaN has no neighbour."""
    monkeypatch.setattr(clustered, "LEAST_RECALL", 1.0)
    users, items = topics(200, 150)
    items[3], users[5] = float("nan"), float("nan")
    items[7], users[9] = 0, 0
    found, _ = clustered_neighbours(users, items, 5)
    assert not (found == 3).any() and (found[5] == -1).all()
    others = torch.tensor([user for user in range(200) if user != 9])  # all similarities of user 9 are equal
    assert found[others].equal(cosine_topk(users, items, 5)[1][others])


@pytest.mark.parametrize("zeros", [150, 1000])
def test_users_of_zeros_do_not_have_all_clusters_searched(zeros):
    users, items = topics(1000, 900)
    expected = clustered_neighbours(users[zeros:], items, 10)[1].probes if zeros < 1000 else clustered.FIRST_PROBES
    users[:zeros] = 0
    found, search = clustered_neighbours(users, items, 10)
    assert search.recall >= 0.95 and search.probes == expected < search.clusters
    assert (found >= 0).all()


def test_result_does_not_depend_on_the_threads(threads):
    users, items = topics(2000, 1500)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(clustered_neighbours(users, items, 10, some_seen(2000, 1500)))
    assert results[0][0].equal(results[1][0]) and results[0][1] == results[1][1]


def catalogue():
    _, items = topics(200, 120)
    seen = some_seen(200, 120)
    pairs = torch.arange(200).repeat_interleave(seen.crow.diff()), seen.col.long()
    graph = InteractionGraph.from_pairs(*pairs, n_users=200, n_items=120)
    return graph, {"image": items, "text": items.roll(1, 0)}


def test_the_encoder_uses_it_and_reports_the_recall(monkeypatch):
    graph, features = catalogue()
    models = []
    for method in ("exact", "ivf"):
        torch.manual_seed(0)
        models.append(MMSSL(graph, features, dim=8, neighbours=4, neighbours_method=method))
    exact, approximate = models
    assert exact.searches == {} and list(approximate.searches) == ["image", "text"]
    for m, search in enumerate(approximate.searches.values()):
        wanted, found = exact.semantic_neighbours[m], approximate.semantic_neighbours[m]
        recall = (wanted[:, :, None] == found[:, None, :]).any(2).double().mean().item()
        assert recall == pytest.approx(search.recall) and 0.95 <= recall
        assert search.clusters == 14


def test_the_encoder_refuses_other_methods():
    graph, features = catalogue()
    with pytest.raises(ValueError, match="neighbours_method must be auto, exact or ivf, got 'lsh'"):
        MMSSL(graph, features, neighbours_method="lsh")
