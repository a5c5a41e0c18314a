"""Users and items without interactions, and metrics that do not depend on how users and items are numbered."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from configurations import short
from mmssl_trainer.data import SPLITS, synthetic
from mmssl_trainer.embeddings import zero_rows
from mmssl_trainer.ranking import breakdown, split_metrics
from mmssl_trainer.runs.recommend import by_popularity, recommend
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.systems import SYSTEMS, create
from mmssl_trainer.training.loop import fit

from mmssl_fast import InteractionGraph

NEW, COLD = [0, 1, 30, 59], [0, 2, 21, 39]
READ_NO_FEATURES = {"popularity", "itemknn", "userknn", "svd", "ease", "mf", "ngcf", "lightgcn", "sgl", "ncl", "hccf"}


def moved_to(dataset, users, items):
    """The same data with other numbers: row n is what users[n] or items[n] was; ids stay with their users and items."""
    return replace(
        dataset,
        **{split: sp.csr_array(getattr(dataset, split)[users][:, items]) for split in SPLITS},
        features={name: values[items] for name, values in dataset.features.items()},
        user_ids=dataset.original_users(users),
        item_ids=dataset.original_items(items),
    )


@pytest.fixture(scope="module")
def data():
    """60 users and 40 items, some of each with held-out interactions only."""
    whole = synthetic(seed=5, n_users=60, n_items=40, modalities={"image": 5, "text": 4})
    train, test = whole.train.toarray(), whole.test.toarray()
    test[NEW] = np.maximum(test[NEW], train[NEW])
    test[:, COLD] = np.maximum(test[:, COLD], train[:, COLD])
    train[NEW], train[:, COLD] = 0, 0
    test *= (train == 0) & (whole.val.toarray() == 0)
    return replace(whole, train=sp.csr_array(train), test=sp.csr_array(test))


def configured(system):
    return short(system, {"evaluate.ks": [3, 20], "train.sample_over": "users"})


def lists(model, k=6):
    """{user id: item ids}."""
    found = {}
    for chunk in recommend(model, None, k):
        for user, item in zip(chunk.user.tolist(), chunk.item.tolist(), strict=True):
            found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_metrics_and_lists_of_every_system_do_not_change_with_the_numbering(data, system):
    config, rng = configured(system), np.random.default_rng(0)
    fitted = fit(data, config)
    before = split_metrics(fitted.users, fitted.items, data, "test", [3, 20])
    shown = lists(Model(fitted.users, fitted.items, {}, data, {}))
    for _ in range(3):
        users, items = rng.permutation(data.n_users), rng.permutation(data.n_items)
        other = moved_to(data, users, items)
        model = fitted.users[users], fitted.items[items]
        assert split_metrics(*model, other, "test", [3, 20]) == pytest.approx(before, abs=1e-12)
        assert lists(Model(*model, {}, other, {})) == shown
        if not create(system).trains:  # no initial values to depend on the numbering
            refitted = fit(other, config)
            again = split_metrics(refitted.users, refitted.items, other, "test", [3, 20])
            assert again == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("system", SYSTEMS)
def test_new_users_get_the_most_popular_items(data, system):
    fitted = fit(data, configured(system))
    model = Model(fitted.users, fitted.items, {}, data, {})
    popularity = np.bincount(data.train.indices, minlength=data.n_items)
    shown = lists(model)
    least = min(popularity[item] for item in shown[NEW[0]])
    assert all(shown[user] == shown[NEW[0]] for user in NEW)
    assert (popularity > least).sum() < 6 and shown[NEW[0]] != list(range(6))
    if system != "popularity":  # which scores every item by its count for everybody
        assert by_popularity(model) == len(NEW) and by_popularity(model, [NEW[0], 5]) == 1


@pytest.mark.parametrize("system", ["ease", "itemknn"])
def test_cold_items_of_closed_forms_have_their_features(data, system):
    """With content, every item's row of cold_items() is what its embedding would be without its interactions."""
    config = configured(system)
    config = config.changed(system, content=2.0)
    alone = data.train.toarray()
    alone[:, 5] = 0
    found = []
    for train in (data.train, sp.csr_array(alone)):
        made = create(system)
        made.build(replace(data, train=train), InteractionGraph.from_scipy(train), config)
        found.append([sp.csr_array(table).toarray() for table in (made.embeddings()[1], made.cold_items())])
    (items, cold), (without, _) = found
    np.testing.assert_allclose(items[COLD], cold[COLD], rtol=1e-4, atol=1e-6)
    assert (np.abs(items[COLD]).sum(1) > 0).all()
    np.testing.assert_allclose(cold[5], without[5], rtol=1e-4, atol=1e-6)
    assert np.abs(items[5] - without[5]).max() > 1e-3


@pytest.mark.parametrize("system", SYSTEMS)
def test_cold_items_have_their_features_or_come_last(data, system):
    """Their embedding is made of the features where the system reads them, and is 0 where not."""
    config = configured(system)
    made = create(system)
    torch.manual_seed(0)
    graph = InteractionGraph.from_scipy(data.train)
    made.build(data, graph, config)
    users, items = made.embeddings()
    if system in READ_NO_FEATURES:
        assert zero_rows(items)[COLD].all()
        popularity = np.bincount(data.train.indices, minlength=data.n_items)
        everything = lists(Model(users, items, {}, data, {}), 40)
        assert all(set(order[-len(COLD) :]) == set(COLD) for order in everything.values())
        assert (popularity[COLD] == 0).all()
    else:
        assert torch.equal(items[COLD], made.cold_items()[COLD]) and (items[COLD] != 0).any(1).all()


def test_breakdown_by_new_users_and_cold_items(data):
    users, items = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (60, 40))
    users[NEW], items[COLD] = 0, 0
    found = breakdown(users, items, data, "test", [3])
    assert list(found) == ["known users", "new users", "known items", "cold items"]
    test = data.test.toarray() > 0
    pairs = [
        test[[u for u in range(60) if u not in NEW]].sum(),
        test[NEW].sum(),
        test[:, [i for i in range(40) if i not in COLD]].sum(),
        test[:, COLD].sum(),
    ]
    assert [found[name]["pairs"] for name in found] == pairs
    whole = split_metrics(users, items, data, "test", [3])
    assert found["known users"]["users"] + found["new users"]["users"] == whole["users"]
    weighted = sum(found[name]["ndcg@3"] * found[name]["users"] for name in ("known users", "new users"))
    assert weighted / whole["users"] == pytest.approx(whole["ndcg@3"])
    assert found["cold items"]["recall@3"] == 0 < found["known items"]["recall@3"]


def test_no_breakdown_without_new_users_or_cold_items():
    whole = synthetic(seed=5, n_users=60, n_items=40, modalities={"image": 5})
    assert breakdown(torch.randn(60, 2), torch.randn(40, 2), whole, "test", [3]) == {}
