"""All-ranking metrics against a literal NumPy implementation, a user at a time."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import ranking
from mmssl_trainer.config.names import METRICS
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import Ranking, ranking_metrics, split_metrics, user_metrics

from mmssl_fast.distributed import Ranks
from mmssl_fast.graph import InteractionGraph

KS = (1, 3, 20)


def literal(users, items, heldout, ks, seen=None):
    """The definitions, written out: every item scored, seen ones dropped; no two scores are equal."""
    totals = {f"{name}@{k}": 0.0 for name in METRICS for k in ks}
    count = 0
    for user in range(users.shape[0]):
        relevant = set(heldout.indices[heldout.indptr[user] : heldout.indptr[user + 1]].tolist())
        if not relevant:
            continue
        count += 1
        scores = users[user] @ items.T
        left = [item for item in range(items.shape[0]) if seen is None or not seen[user, item]]
        ranked = sorted(left, key=lambda item: (-scores[item], item))
        for k in ks:
            hits = [item in relevant for item in ranked[:k]]
            ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
            totals[f"recall@{k}"] += sum(hits) / len(relevant)
            totals[f"precision@{k}"] += sum(hits) / k
            totals[f"ndcg@{k}"] += sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit) / ideal
            totals[f"hit@{k}"] += any(hits)
            totals[f"mrr@{k}"] += next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
    return {name: total / max(1, count) for name, total in totals.items()} | {"users": count}


def catalogue(n_users, n_items, seed, seen_rate=0.2, held_rate=0.15):
    rng = np.random.default_rng(seed)
    kind = rng.random((n_users, n_items))
    seen, heldout = kind < seen_rate, (kind >= seen_rate) & (kind < seen_rate + held_rate)
    users = torch.from_numpy(rng.standard_normal((n_users, 6)))
    items = torch.from_numpy(rng.standard_normal((n_items, 6)))
    return users, items, sp.csr_array(heldout.astype(np.float32)), sp.csr_array(seen.astype(np.float32)), seen


@pytest.mark.parametrize("n_users, n_items", [(1, 1), (1, 41), (41, 7), (60, 401)])
@pytest.mark.parametrize("batch", [1, 16, 4096])
def test_metrics_equal_literal(n_users, n_items, batch):
    users, items, heldout, seen, mask = catalogue(n_users, n_items, seed=n_users + n_items)
    got = ranking_metrics(users, items, heldout, KS, InteractionGraph.from_scipy(seen), batch)
    want = literal(users.numpy(), items.numpy(), heldout, KS, mask)
    assert got == pytest.approx(want, abs=1e-12)
    assert set(got) == set(want)


def test_metrics_tied_scores():
    """Of four tied items one is wanted: it is at each rank with probability 1/4, whatever its id."""
    heldout = sp.csr_array(np.array([[0, 0, 1, 0], [0, 1, 0, 0]], np.float32))
    got = ranking_metrics(torch.ones(2, 3), torch.ones(4, 3), heldout, [1, 2, 3])
    assert (got["recall@1"], got["recall@2"], got["recall@3"]) == (0.25, 0.5, 0.75)
    assert got["mrr@3"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)


def test_ndcg_ideal_counts_all_relevant():
    """One of two held-out items in front: the ideal list has both, not only the one that was found."""
    users, items = torch.tensor([[1.0]]), torch.tensor([[3.0], [2.0], [1.0], [0.0]])
    heldout = sp.csr_array(np.array([[1, 0, 0, 1]], np.float32))
    got = ranking_metrics(users, items, heldout, [2])
    assert got["ndcg@2"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert got["recall@2"] == 0.5


def test_users_without_heldout_do_not_count():
    heldout = sp.csr_array(np.array([[1, 0], [0, 0], [0, 0]], np.float32))
    got = ranking_metrics(torch.ones(3, 1), torch.tensor([[2.0], [1.0]]), heldout, [1])
    assert got["users"] == 1 and got["recall@1"] == 1.0


def test_nobody_to_evaluate():
    got = ranking_metrics(torch.ones(3, 1), torch.ones(2, 1), sp.csr_array((3, 2), dtype=np.float32), [1, 2])
    assert got["users"] == 0 and got["recall@2"] == 0.0


def test_more_asked_than_there_are_items():
    """Fewer than K items left: missing places are no hits and item −1 is nobody's."""
    heldout = sp.csr_array(np.array([[0, 1, 0], [1, 0, 0]], np.float32))
    seen = InteractionGraph.from_pairs([0, 0, 1, 1], [0, 2, 1, 2], 2, 3)
    got = ranking_metrics(torch.ones(2, 1), torch.ones(3, 1), heldout, [5], seen)
    assert got["recall@5"] == 1.0 and got["precision@5"] == pytest.approx(0.2)


@pytest.mark.parametrize("batch", [16, 4096])
def test_metrics_of_long_lists_equal_literal(batch, monkeypatch):
    monkeypatch.setattr(ranking.arguments, "LIST_ENTRIES", 8000)  # 19 users of 401 items at once
    users, items, heldout, seen, mask = catalogue(60, 401, seed=3)
    ks = (20, 128, 129, 300, 401)
    got = ranking_metrics(users, items, heldout, ks, InteractionGraph.from_scipy(seen), batch)
    assert got == pytest.approx(literal(users.numpy(), items.numpy(), heldout, ks, mask), abs=1e-12)
    assert got["recall@300"] < got["recall@401"] == pytest.approx(1)


@pytest.mark.parametrize("ks", [[], [0]])
def test_list_lengths_out_of_range(ks):
    with pytest.raises(ValueError, match="every K must be at least 1"):
        ranking_metrics(torch.ones(1, 1), torch.ones(1, 1), sp.csr_array((1, 1)), ks)


def test_list_lengths_end_with_the_catalogue():
    for n_items, ks in ((300, [1, 300]), (7, [10, 20, 50])):
        ranking.check_list_lengths("--k", ks, n_items)
    for n_items, ks in ((300, [20, 301]), (7, [51]), (300, [0])):
        with pytest.raises(InputError, match=rf"^--k .*: each must be between 1 and {n_items}, the number of items"):
            ranking.check_list_lengths("--k", ks, n_items)


def test_shapes_that_differ():
    with pytest.raises(ValueError, match="2 users x 3 items"):
        ranking_metrics(torch.ones(2, 1), torch.ones(4, 1), sp.csr_array((2, 3)), [1])


def test_masking_of_validation_items():
    """By default only training items are left out; mask_validation leaves validation items out of the test ranking."""
    from mmssl_trainer.data import Dataset

    def pairs(*cells):
        matrix = np.zeros((1, 4), np.float32)
        for cell in cells:
            matrix[0, cell] = 1
        return sp.csr_array(matrix)

    data = Dataset("small", "made", 1, 4, pairs(0), pairs(1), pairs(2), {})
    users, items = torch.ones(1, 1), torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    assert split_metrics(users, items, data, "test", [1])["recall@1"] == 0.0
    assert split_metrics(users, items, data, "test", [1], mask_validation=True)["recall@1"] == 1.0
    assert split_metrics(users, items, data, "val", [1], mask_validation=True)["recall@1"] == 1.0


# --- ties, and what the system knows nothing of ----------------------------------------------------------------------
def in_every_order(score, popularity, wanted, seen, k):
    """The metrics of one user, averaged over every order of the items that score and popularity leave tied."""
    unseen = [item for item in range(len(score)) if item not in seen]
    keys = {item: (-score[item], -popularity[item]) for item in unseen}
    tied = [[item for item in unseen if keys[item] == key] for key in sorted(set(keys.values()))]
    lists = [list(itertools.chain(*orders)) for orders in itertools.product(*map(itertools.permutations, tied))]
    totals = np.zeros(len(METRICS))
    for ranked in lists:
        hits = [item in wanted for item in ranked[:k]]
        gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        first = next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
        totals += (sum(hits) / len(wanted), sum(hits) / k, gain / ideal, any(hits), first)
    return totals / len(lists)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(6))
def test_tied_items_count_as_in_every_order_of_them(seed, k):
    """Expected values over all orders, popularity decided first; some held-out items are left out of the ranking."""
    rng = np.random.default_rng(seed)
    items, popularity = rng.integers(1, 4, (7, 1)), rng.integers(0, 2, 7)
    users = np.array([[1.0], [0.0], [-1.0]])
    kinds = rng.integers(0, 3, (3, 7))
    kinds[:, 0] = 2
    seen = sp.csr_array((kinds == 1).astype(np.float32))
    heldout = sp.csr_array(((kinds == 2) | (rng.random((3, 7)) < 0.1)).astype(np.float32))
    tensors = torch.from_numpy(users), torch.from_numpy(items.astype(float))
    who, got = user_metrics(*tensors, heldout, k, InteractionGraph.from_scipy(seen), popularity=popularity)
    assert who.tolist() == [0, 1, 2]
    for user in range(3):
        wanted, left_out = (set(matrix[[user]].indices.tolist()) for matrix in (heldout, seen))
        want = in_every_order(users[user, 0] * items[:, 0], popularity, wanted, left_out, k)
        assert [got[name][user] for name in METRICS] == pytest.approx(want.tolist(), abs=1e-12)


def test_user_without_embedding_gets_the_most_popular_items():
    """Not items 0, 1, 2, …: scores are all 0, and popularity decides."""
    popularity = np.array([1, 5, 0, 9, 7])
    _, best = Ranking(torch.randn(5, 3), popularity).best(torch.zeros(1, 3), torch.tensor([0]), 4)
    assert best.tolist() == [[3, 4, 1, 0]]


def test_several_ranks_need_the_popularity():
    with pytest.raises(ValueError, match="popularity is required"):
        Ranking(torch.ones(2, 3), ranks=Ranks(rank=0, size=2))


def test_items_without_embedding_come_last_by_popularity():
    """Items 1, 2 and 4 score 0, above the −1 of item 0; that says nothing of them. Item 4 is seen."""
    items = torch.tensor([[-1.0], [0.0], [0.0], [2.0], [0.0]])
    seen = InteractionGraph.from_pairs([0], [4], 1, 5)
    ranking = Ranking(items, np.array([3, 1, 2, 4, 9]), seen)
    scores, best = ranking.best(torch.ones(1, 1), torch.tensor([0]), 6)
    assert best.tolist() == [[3, 0, 2, 1, -1, -1]]
    assert scores.tolist() == [[2.0, -1.0, 0.0, 0.0, -math.inf, -math.inf]]


@pytest.mark.parametrize("k", [1, 5, 30])
def test_metrics_and_lists_do_not_change_with_the_numbering(k):
    """Users and items permuted, with ties of every kind: equal rows, zero rows of users and of items."""
    rng = np.random.default_rng(0)
    users, items, heldout, seen, _ = catalogue(50, 30, seed=1)
    users[::7], items[::4] = 0, 0
    items[1::4] = items[1]
    items = items.round(decimals=1)
    popularity, names = rng.integers(0, 4, 30), rng.integers(0, 2**40, 30)
    metrics = ranking_metrics(users, items, heldout, [k], InteractionGraph.from_scipy(seen), 16, popularity)
    lists = best_names(users, items, seen, popularity, names, k)
    for _ in range(5):
        at, to = rng.permutation(50), rng.permutation(30)
        moved = users[at], items[to], heldout[at][:, to]
        graph = InteractionGraph.from_scipy(seen[at][:, to])
        again = ranking_metrics(*moved, [k], graph, 16, popularity[to])
        assert again == pytest.approx(metrics, abs=1e-12)
        assert best_names(users[at], items[to], seen[at][:, to], popularity[to], names[to], k) == [lists[u] for u in at]


def best_names(users, items, seen, popularity, names, k):
    ranking = Ranking(items, popularity, InteractionGraph.from_scipy(seen), names.astype(np.uint64))
    _, best = ranking.best(users, torch.arange(len(users)), k)
    return [[int(names[item]) for item in row if item >= 0] for row in best.tolist()]
