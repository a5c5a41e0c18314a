"""What the weights of interactions do in every system: closed forms against NumPy, and drawn positives."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import InputError, configure, fold_in
from mmssl_trainer.data import synthetic
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.systems.popularity import PopularitySystem
from mmssl_trainer.training import loop
from mmssl_trainer.training.weighted import WeightedSampler

from mmssl_fast import InteractionGraph
from mmssl_fast.distributed import Ranks

CLOSED = [
    ("popularity", {}),
    ("ease", {"ease.user_exponent": 0.5}),
    ("ease", {"ease.rank": 20}),
    ("itemknn", {"itemknn.user_exponent": 0.5}),
    ("userknn", {"userknn.item_exponent": 0.5}),
    ("svd", {}),
    ("svd", {"svd.content": 0.5}),
]


def catalogue(users=60, items=40):
    return synthetic(seed=1, n_users=users, n_items=items, modalities={"image": 8, "text": 6}, mean_degree=9)


def weighted(data, seed=3):
    weights = np.random.default_rng(seed).uniform(0.2, 3, data.train.nnz)
    return replace(data, weights=(weights / weights.mean()).astype(np.float32))


def fitted(data, system, **values):
    settings = {"model.system": system, "model.dim": 8, "model.heads": 2, "train.threads": 1, "train.epochs": 2}
    return loop.fit(data, configure(settings | {"train.batch": 32} | values))


def scores(fit):
    users, items = (sp.csr_array(table).astype(np.float64) for table in (fit.users, fit.items))
    return (users @ items.T).toarray()


@pytest.mark.parametrize("system, values", CLOSED)
def test_weights_of_one_give_the_bits_of_no_weights(system, values):
    data = catalogue()
    ones = replace(data, weights=np.ones(data.train.nnz, np.float32))
    for one, other in ((fitted(each, system, **values) for each in (data, ones)),):
        for side in ("users", "items"):
            assert (sp.csr_array(getattr(one, side)) != sp.csr_array(getattr(other, side))).nnz == 0


@pytest.mark.parametrize("system, values", CLOSED)
def test_weights_matter_and_their_order_is_that_of_the_pairs(system, values):
    """Renumbering the items changes nothing."""
    data = weighted(catalogue())
    found = scores(fitted(data, system, **values))
    assert not np.allclose(found, scores(fitted(catalogue(), system, **values)), rtol=0.01)
    order = np.random.default_rng(0).permutation(data.n_items)
    moved = sp.csr_array(data.weighted[:, order])
    moved.sort_indices()
    ones = sp.csr_array((np.ones_like(moved.data), moved.indices, moved.indptr), shape=moved.shape)
    features = {name: raw[order] for name, raw in data.features.items()}
    other = replace(data, train=ones, weights=moved.data, features=features)
    again = scores(fitted(other, system, **values))
    if system == "svd":  # the sign of a singular vector is free, its scores are not
        np.testing.assert_allclose(again, found[:, order], atol=2e-3 * np.abs(found).max())
    else:
        np.testing.assert_allclose(again, found[:, order], atol=1e-4 * np.abs(found).max())


def test_popularity_is_the_sum_of_weights():
    data = weighted(catalogue())
    np.testing.assert_allclose(scores(fitted(data, "popularity"))[0], data.weighted.toarray().sum(0), rtol=1e-6)


@pytest.mark.parametrize("sizes", [(60, 40), (40, 60)], ids=["by items", "by users"])
def test_ease_is_the_closed_form_of_the_weighted_matrix(sizes):
    data = weighted(catalogue(*sizes))
    x = data.weighted.toarray().astype(np.float64)
    inverse = np.linalg.inv(
        x.T @ (x / np.sqrt(x.sum(1, keepdims=True) + (x.sum(1, keepdims=True) == 0))) + 7 * np.eye(sizes[1])
    )
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    found = scores(fitted(data, "ease", **{"ease.penalty": 7.0, "ease.user_exponent": 0.5}))
    missing = x == 0
    np.testing.assert_allclose(found[missing], (x @ b)[missing], atol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_neighbours_are_those_of_the_weighted_vectors(exponent):
    """The exponent divides by sums of weights."""
    data = weighted(catalogue())
    x = data.weighted.toarray().astype(np.float64)
    by_user, by_item = (np.where(total > 0, total, 1) ** -exponent for total in (x.sum(1), x.sum(0)))
    damped = {"itemknn": (x * by_user[:, None]).T, "userknn": x * by_item}
    for system, key in (("itemknn", "user_exponent"), ("userknn", "item_exponent")):
        rows = damped[system]
        norms = np.linalg.norm(rows, axis=1)
        cosine = rows @ rows.T / np.maximum(norms[:, None] * norms, 1e-12)
        np.fill_diagonal(cosine, 0)
        expected = x @ cosine if system == "itemknn" else cosine @ x
        values = {f"{system}.neighbours": 0, f"{system}.shrinkage": 0.0, f"{system}.{key}": exponent}
        np.testing.assert_allclose(scores(fitted(data, system, **values)), expected, atol=1e-5)


@pytest.mark.parametrize("content", [0.0, 0.5])
def test_svd_of_the_weighted_matrix_and_a_history_of_weights_of_one(content):
    data = catalogue()
    weights = weighted(data).weights
    first = data.train.indptr[1]
    weights[:first] = 1  # user 0
    weights[first:] *= (len(weights) - first) / weights[first:].sum()
    data = replace(data, weights=weights)
    config = configure({"model.system": "svd", "model.dim": 8, "model.heads": 2, "svd.content": content})
    fit = loop.fit(data, config)
    x = data.weighted.toarray().astype(np.float64)
    a, b, p = config.svd.user_exponent, config.svd.item_exponent, config.svd.power
    by_user, by_item = (np.where(total > 0, total, 1) for total in (x.sum(1), x.sum(0)))
    u, s, v = np.linalg.svd(by_user[:, None] ** -a * x * by_item**-b, full_matrices=False)
    expected = u[:, :8] * s[:8] ** (2 * p + 1) @ v[:8]
    own = (fit.users[:, :8] @ fit.items[:, :8].T).double().numpy()
    there = np.abs(expected).max(1) > 1e-9
    ratio = (own * expected).sum(1, keepdims=True) / np.maximum((expected**2).sum(1, keepdims=True), 1e-30)
    np.testing.assert_allclose(own[there], (ratio * expected)[there], atol=1e-3 * np.abs(own).max())
    if content:
        image = next(iter(data.features.values())).astype(np.float64)
        image = (image - image.mean(0)) / image.std(0)
        unit = image / np.linalg.norm(image, axis=1, keepdims=True)
        profile = x @ unit / by_user[:, None]
        score = profile @ unit.T
        score *= content / score.std(1, keepdims=True)
        np.testing.assert_allclose((fit.users[:, 8:16] @ fit.items[:, 8:16].T)[:5], score[:5], atol=1e-4)
    model = Model.of(fit, data, config)
    histories = [data.original_items(data.train[[user]].indices).tolist() for user in (0, 1)]
    found = fold_in(model, histories)
    torch.testing.assert_close(found[0], fit.users[0], rtol=2e-4, atol=2e-6)
    assert not torch.allclose(found[1], fit.users[1], rtol=1e-2)


def test_evaluation_counts_every_held_out_item_once():
    data = weighted(catalogue())
    fit = fitted(data, "popularity")
    plain = replace(data, weights=None)
    assert split_metrics(fit.users, fit.items, data, "test", [5]) == split_metrics(
        fit.users, fit.items, plain, "test", [5]
    )
    assert data.train.data.min() == data.train.data.max() == 1


@pytest.fixture
def sampler():
    """Of 5 users one has no item and one has every item."""
    users, items = np.array([0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3]), np.array([0, 2, 4, 1, 0, 1, 2, 3, 4, 3, 4])
    graph = InteractionGraph.from_pairs(users, items, 5, 5)
    weights = np.array([1, 2, 5, 4, 9, 9, 9, 9, 9, 3, 1], np.float32)
    return graph, weights, WeightedSampler(graph, weights)


def test_interactions_are_drawn_in_proportion_to_their_weights(sampler):
    graph, weights, draw = sampler
    users, positives, negatives = (
        torch.cat(side) for side in zip(*(draw(4000, 3, n, "interactions") for n in range(10)), strict=True)
    )
    expected = np.zeros((5, 5))
    expected[np.repeat(np.arange(5), graph.user_degree), graph.col] = weights
    expected[2] = 0  # this user has no negative
    counts = np.bincount(users * 5 + positives, minlength=25).reshape(5, 5)
    np.testing.assert_allclose(counts / 40000, expected / expected.sum(), atol=0.01)
    for user in (0, 1, 3):
        own = np.bincount(negatives[users == user], minlength=5) / int((users == user).sum())
        missing = expected[user] == 0
        np.testing.assert_allclose(own, missing / missing.sum(), atol=0.02)


def test_the_positives_of_drawn_users_are_drawn_in_proportion_to_their_weights(sampler):
    _, _, draw = sampler
    drawn = [draw(3, 3, n, "users") for n in range(4000)]
    users, positives, negatives = (torch.cat(side) for side in zip(*drawn, strict=True))
    assert all(sorted(one[0].tolist()) == [0, 1, 3] for one in drawn)
    for user, shares in ((0, [1 / 8, 0, 2 / 8, 0, 5 / 8]), (1, [0, 1, 0, 0, 0]), (3, [0, 0, 0, 3 / 4, 1 / 4])):
        np.testing.assert_allclose(np.bincount(positives[users == user], minlength=5) / 4000, shares, atol=0.03)
        assert not set(negatives[users == user].tolist()) & set(np.flatnonzero(shares))


def test_small_weights_of_one_user_are_drawn_in_proportion_beside_large_ones_of_others():
    """1 + 1e-18 is 1, so that sums over all users would lose the weights of the second one."""
    graph = InteractionGraph.from_pairs(np.repeat([0, 1], 3), np.array([0, 1, 2, 0, 1, 3]), 2, 5)
    draw = WeightedSampler(graph, np.array([1, 2, 3, 1e-18, 5e-18, 2e-18], np.float32))
    users, positives, _ = (torch.cat(side) for side in zip(*(draw(2, 0, n, "users") for n in range(4000)), strict=True))
    for user, shares in ((0, [1 / 6, 2 / 6, 3 / 6, 0]), (1, [1 / 8, 5 / 8, 0, 2 / 8])):
        np.testing.assert_allclose(np.bincount(positives[users == user], minlength=4) / 4000, shares, atol=0.03)


@pytest.mark.parametrize("over", ["interactions", "users"])
def test_triples_depend_on_seed_and_step_only(sampler, over):
    _, _, draw = sampler
    first = torch.stack(draw(3, 1, 7, over))
    assert torch.equal(first, torch.stack(draw(3, 1, 7, over)))
    others = [torch.stack(draw(3, seed, step, over)) for seed in (1, 2) for step in range(8, 28)]
    assert sum(torch.equal(first, other) for other in others) < 10


@pytest.mark.parametrize("over", ["interactions", "users"])
def test_positives_and_negatives_of_a_catalogue(over):
    data = weighted(catalogue(200, 90))
    graph = InteractionGraph.from_scipy(data.train)
    draw = WeightedSampler(graph, data.weights)
    seen = data.train.toarray() > 0
    users, positives, negatives = (
        torch.cat(side).numpy() for side in zip(*(draw(150, 0, n, over) for n in range(60)), strict=True)
    )
    assert seen[users, positives].all() and not seen[users, negatives].any()
    assert len(np.unique(negatives)) == 90 and len(np.unique(users)) > 190


@pytest.mark.parametrize("over", ["interactions", "users"])
def test_systems_that_are_trained_draw_by_weight(over):
    data = catalogue()
    plain, other = (fitted(each, "mf", **{"train.sample_over": over}) for each in (data, weighted(data)))
    again = fitted(weighted(data), "mf", **{"train.sample_over": over})
    assert not torch.equal(plain.items, other.items) and torch.equal(again.items, other.items)


def test_weights_that_nothing_uses_are_refused(monkeypatch):
    class Careless(PopularitySystem):
        uses_weights = False

    data, config = weighted(catalogue()), configure({"model.system": "popularity"})
    with pytest.raises(InputError, match=r": popularity does not use the weights [^\n]*; leave out --weight-column$"):
        loop.fit(data, config, system=Careless())
    monkeypatch.setattr(loop.distributed, "current", lambda: Ranks(0, 2))
    with pytest.raises(InputError, match="only one process can train on interactions with weights; leave out"):
        loop.fit(data, config)
