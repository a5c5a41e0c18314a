"""Coverage, novelty, diversity, share of cold items and confidence intervals against their definitions."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from command_line import SMALL, fails
from mmssl_trainer import beyond_accuracy, compare, configure, evaluate, intervals, recommend
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic
from mmssl_trainer.data.dataset import build
from mmssl_trainer.runs.list_metrics import interval, list_metrics, values_of_users
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.training.loop import fit
from scipy import stats


def model_of(dataset, users, items):
    config = configure({"model.system": "popularity"})
    fitted = fit(dataset, config)
    fitted.users, fitted.items = (torch.tensor(side, dtype=torch.float32) for side in (users, items))
    return Model.of(fitted, dataset, config)


def by_hand(n_users=3):
    """Three users with interactions, five items. Item 4 is cold. User 0 gets 2, 3; user 1 gets 4, 0; user 2 has no test
    item."""
    pairs = {"train": ([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3]), "test": ([0, 1], [2, 4])}
    pairs = {split: tuple(np.array(side) for side in sides) for split, sides in pairs.items()}
    dataset = build("hand", "made", (n_users, 5), pairs, {})
    return model_of(dataset, np.eye(n_users, 3), [[9, 2, 1], [9, 9, 1], [3, 9, 9], [2, 1, 1], [1, 3, 1]])


def test_values_by_hand():
    """Of 3 training users, item 0 has one (0), item 2 two (1, 2), item 3 one (2) and item 4 none, counted as one."""
    model = by_hand()
    assert recommend(model, users=[0, 1], k=2).item.tolist() == [2, 3, 4, 0]
    found = beyond_accuracy(model, ks=[1, 2])
    rare, common = math.log2(3), math.log2(3 / 2)
    assert found["novelty@1"] == pytest.approx((common + rare) / 2)
    assert found["novelty@2"] == pytest.approx(((common + rare) / 2 + (rare + rare) / 2) / 2)
    assert found["diversity@1"] == 0
    assert found["diversity@2"] == pytest.approx(((1 - 1 / math.sqrt(2)) + 1) / 2)
    assert (found["cold_share@1"], found["cold_share@2"]) == (1 / 2, 1 / 4)
    assert (found["coverage@1"], found["coverage@2"]) == (2 / 5, 4 / 5)


def test_users_without_training_interactions_make_no_item_novel():
    assert beyond_accuracy(by_hand(n_users=7), ks=[1, 2]) == beyond_accuracy(by_hand(), ks=[1, 2])


def literal(model, split, k):
    """The definitions, written out, a list at a time."""
    data = model.interactions
    train = data.train.toarray().astype(np.float64)
    n_users = (train.sum(1) > 0).sum()
    values, recommended = {"novelty": [], "diversity": [], "cold_share": []}, set()
    for user in np.flatnonzero(np.diff(getattr(data, split).indptr)):
        items = recommend(model, users=[data.original_users([user])[0]], k=k).item
        items = data.find_items(items.tolist())
        recommended |= set(items.tolist())
        values["novelty"].append(np.mean([-math.log2(max(train[:, i].sum(), 1) / n_users) for i in items]))
        distances = []
        for i, j in itertools.combinations(items, 2):
            norm = math.sqrt(train[:, i].sum() * train[:, j].sum())
            distances.append(1 - (train[:, i] @ train[:, j] / norm if norm else 0))
        values["diversity"].append(np.mean(distances) if distances else 0)
        values["cold_share"].append(np.mean([train[:, i].sum() == 0 for i in items]))
    return values, len(recommended) / data.n_items


@pytest.fixture(scope="module")
def model():
    """Some items are cold, some users have nearly every item, so that their lists are short."""
    data = synthetic(seed=4, n_users=60, n_items=50, modalities={"image": 2})
    train = data.train.tolil()
    train[:, ::7] = 0
    for user, left in ((3, 1), (8, 2), (9, 5)):
        train[user, :] = 1
        train[user, :left] = 0
    train, test = sp.csr_array(train), data.test.maximum(data.val)
    test = sp.csr_array(test - test.multiply(train))
    test.eliminate_zeros()
    test = test.tolil()
    for user in (3, 8, 9):
        test[user, 0] = 1
    rng = np.random.default_rng(0)
    dataset = replace(data, train=train, val=sp.csr_array(train.shape, dtype=np.float32), test=sp.csr_array(test))
    return model_of(dataset, rng.standard_normal((60, 8)), rng.standard_normal((50, 8)))


@pytest.mark.parametrize("batch", [4096, 7])
def test_values_are_the_definitions(model, batch):
    found = list_metrics(model, "test", [1, 2, 10], batch=batch)
    for k in (1, 2, 10):
        expected, coverage = literal(model, "test", k)
        for name, values in expected.items():
            np.testing.assert_allclose(found.values[f"{name}@{k}"], values, rtol=1e-12, atol=1e-12)
        assert found.coverage[f"coverage@{k}"] == coverage
    assert 0 < found.means()["cold_share@10"] < 1


def test_intervals_are_those_of_the_t_test(model):
    _, values = values_of_users(model, "test", [3, 20])
    means, limits = evaluate(model, ks=[3, 20]), intervals(model, ks=[3, 20], lists=True)
    assert set(limits) == {name for name in [*means, *beyond_accuracy(model, ks=[3, 20])] if "@" in name} - {
        "coverage@3",
        "coverage@20",
    }
    for name, each in values.items():
        assert each.mean() == pytest.approx(means[name])
        expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
        assert limits[name] == pytest.approx(tuple(expected))
    resampled = stats.bootstrap((values["recall@20"],), np.mean, rng=0).confidence_interval
    low, high = limits["recall@20"]
    assert (low, high) == pytest.approx(tuple(resampled), abs=0.2 * (high - low))
    assert interval(np.array([0.5])) == (0.5, 0.5) and interval(np.empty(0)) == (0.0, 0.0)


def test_compare_tests_the_lists_too(model):
    rng = np.random.default_rng(1)
    other = model_of(model.interactions, rng.standard_normal((60, 8)), rng.standard_normal((50, 8)))
    rows, users = compare(model, other, k=10, lists=True)
    assert [row.metric for row in rows][-3:] == ["novelty", "diversity", "cold_share"]
    assert rows[:-3] == compare(model, other, k=10)[0]
    one, two = (list_metrics(each, "test", [10]).values["novelty@10"] for each in (model, other))
    test = stats.ttest_rel(two, one)
    assert users == len(one)
    assert rows[-3].difference == pytest.approx(two.mean() - one.mean()) and rows[-3].p_t == pytest.approx(test.pvalue)


def test_commands_show_them(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "--out", run, *SMALL]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--k", "20", "--beyond-accuracy", "--intervals", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["intervals"]["novelty@20"]
    assert low < found["novelty@20"] < high and 0 < found["coverage@20"] <= 1
    assert main(["evaluate", run, "--k", "20", "--beyond-accuracy", "--intervals"]) == 0
    shown = capsys.readouterr().out
    low, high = found["intervals"]["recall@20"]
    assert f"{found['recall@20']:.4f} ± {(high - low) / 2:.4f}" in " ".join(shown.split())
    assert main(["compare", run, run, "--beyond-accuracy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"][-1]["metric"] == "cold_share"
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0
    for file in ("report.html", "report.md"):
        text = (tmp_path / file).read_text()
        assert f"{low:.4f} to {high:.4f}" in text and f"{found['coverage@20']:.4f}" in text
    capsys.readouterr()
    fails(capsys, ["evaluate", run, "--cold", "--intervals"], "--cold cannot be used with --intervals")
