"""Which validation metric selects: all items, or cold items among themselves."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from command_line import fails
from mmssl_trainer import configure
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import ranking_metrics
from mmssl_trainer.runs.curves import draw
from mmssl_trainer.training.loop import fit
from mmssl_trainer.training.selection import selection
from plain_systems import configured

COLD = np.arange(0, 240, 4)


@pytest.fixture(scope="module")
def data():
    """Every fourth item has held-out interactions only."""
    whole = synthetic(seed=2, n_users=90, n_items=240, modalities={"image": 8, "text": 6}, mean_degree=24)
    every = whole.train.maximum(whole.val).maximum(whole.test).toarray()
    val, train = np.zeros_like(every), every.copy()
    val[:, COLD], train[:, COLD] = every[:, COLD], 0
    return replace(whole, train=sp.csr_array(train), val=sp.csr_array(val))


def among_cold(fitted, data):
    """Their ranking by a matrix that has no other items."""
    items = fitted.items[torch.from_numpy(COLD)] if isinstance(fitted.items, torch.Tensor) else fitted.items[COLD]
    return ranking_metrics(fitted.users, items, data.val[:, COLD], [3, 20])


@pytest.mark.parametrize("system", ["vbpr", "clcrec"])
def test_a_split_by_items_is_selected_by_cold_items(data, system, tmp_path):
    values = {"optimiser__lr": 0.02, "evaluate__ks": [3, 20]}
    fitted = fit(data, configured(system, **values))
    found = [record["val"]["cold_recall@20"] for record in fitted.epochs]
    assert fitted.best == max(found) == selection(fitted.val) and fitted.best_epoch == 1 + int(np.argmax(found))
    expected = among_cold(fitted, data)
    for name in ("recall@3", "recall@20", "ndcg@3", "ndcg@20"):
        assert fitted.val[f"cold_{name}"] == pytest.approx(expected[name])
    assert len(set(found)) > 1 and fitted.val["cold_recall@3"] > fitted.val["recall@3"]
    draw(fitted.epochs, tmp_path / "curves.png", "cold")
    by_all = fit(data, configured(system, train__select="all", **values))
    assert "cold_recall@20" not in by_all.val and by_all.best == by_all.val["recall@20"]


def test_systems_in_closed_form_are_scored_by_cold_items_too(data):
    for system in ("ease", "itemknn"):
        fitted = fit(data, configured(system, **{f"{system}__content": 1.0, "evaluate__ks": [3, 20]}))
        assert fitted.best == pytest.approx(among_cold(fitted, data)["recall@20"]), system


def test_other_splits_and_systems_are_selected_by_all_items(data):
    known = data.val.tolil()
    known[0, 1] = 1  # one pair of a known item
    mixed = replace(data, val=sp.csr_array(known))
    assert "cold_recall@20" not in fit(mixed, configured("vbpr", train__epochs=1)).val
    assert "cold_recall@20" in fit(mixed, configured("vbpr", train__epochs=1, train__select="cold")).val
    assert "cold_recall@20" not in fit(data, configured("lightgcn", train__epochs=1)).val


def test_cold_items_cannot_select_where_there_are_none(data):
    with pytest.raises(InputError, match=r'train\.select = "cold": lightgcn gives no embedding to items without'):
        fit(data, configured("lightgcn", train__select="cold"))
    whole = replace(data, val=data.train)
    with pytest.raises(InputError, match=r'train\.select = "cold": .* has no validation pair of an item without'):
        fit(whole, configured("vbpr", train__select="cold"))


@pytest.mark.parametrize(("system", "prefix"), [("lightgcn", ""), ("vbpr", "cold_")])
def test_the_chosen_metric_selects(data, system, prefix, tmp_path):
    """Also one at a K that evaluate.ks does not have, and among cold items."""
    values = {"optimiser__lr": 0.02, "evaluate__ks": [20], "train__epochs": 6}
    split = data if prefix else synthetic(seed=2, n_users=90, n_items=240, modalities={"image": 8})
    first = fit(split, configured(system, **values))
    for name in ("mrr@1", "ndcg@20", "precision@7"):
        fitted = fit(split, configured(system, train__select_by=name, **values))
        found = [record["val"][prefix + name] for record in fitted.epochs]
        assert fitted.best == max(found) == selection(fitted.val) == fitted.val["selected"]
        assert fitted.best_epoch == 1 + int(np.argmax(found))
        for one, other in zip(first.epochs, fitted.epochs, strict=True):
            assert one["val"].items() <= other["val"].items()
        draw(fitted.epochs, tmp_path / "curves.png", "by", name)


def test_the_chosen_metric_stops_early(data):
    """A model that is compared by a metric which never improves stops after train.patience validations."""
    never = replace(data, val=sp.csr_array(data.val.shape, dtype=np.float32))
    lists = never.val.tolil()
    lists[0, 0] = 1
    one_pair = replace(data, val=sp.csr_array(lists))
    values = {"train__epochs": 30, "train__patience": 2, "train__select": "all", "optimiser__lr": 1e-6}
    fitted = fit(one_pair, configured("lightgcn", train__select_by="hit@1", **values))
    assert len(fitted.epochs) == 3 and fitted.best == 0 and fitted.best_epoch == 1


@pytest.mark.parametrize("name", ["recall", "recall@0", "recall@-1", "map@10", "ndcg@1.5", "@5", "ndcg@٣"])
def test_metric_that_is_none_is_refused(name):
    with pytest.raises(InputError, match=r"train\.select_by.*such as ndcg@10"):
        configure({"train.select_by": name})


def test_list_longer_than_the_catalogue_is_refused(tmp_path, capsys):
    settings = ["--system", "popularity", "--set", "train.select_by=ndcg@5000"]
    fails(
        capsys,
        ["train", *settings, "--out", str(tmp_path / "run")],
        "train.select_by [5000]: each must be between 1 and",
    )
