"""The item-item part of trained systems: its scores, checkpoints, files, cold items, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import InputError, configure, export, fold_in, tune
from mmssl_trainer import fit as fit_model
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.embeddings import packed, unpacked
from mmssl_trainer.memory.plan import stages
from mmssl_trainer.memory.sizes import sizes_of
from mmssl_trainer.runs.saved_model import load
from mmssl_trainer.systems import SYSTEMS, create
from mmssl_trainer.training.loop import fit
from mmssl_trainer.training.progress import Fit

from mmssl_fast import InteractionGraph
from mmssl_fast.distributed import Ranks

SMALL = {
    "train.epochs": 1,
    "train.threads": 1,
    "model.dim": 16,
    "loss.adversarial": False,
    "ease.penalty": 20.0,
}
TRAINED = [name for name in SYSTEMS if create(name).trains]
CONTENT = {"ease.content": 3.0, "ease.content_tau": 0.4}


def catalogue(users=150, items=100):
    return synthetic(seed=1, n_users=users, n_items=items, modalities={"image": 8, "text": 6}, mean_degree=16)


def scores(fitted):
    users, items = (sp.csr_array(table).astype(np.float64) for table in (fitted.users, fitted.items))
    return (users @ items.T).toarray()


def built(data, name="mmssl", **values):
    torch.manual_seed(0)
    system = create(name)
    values["model.system"] = name
    system.build(data, InteractionGraph.from_scipy(data.train), configure(SMALL | values))
    return system


@pytest.mark.parametrize("content", [{}, CONTENT], ids=["interactions", "features"])
@pytest.mark.parametrize(("name", "sizes"), [(name, (150, 100)) for name in TRAINED] + [("mmssl", (100, 150))])
def test_the_score_is_the_sum_of_both_parts(name, sizes, content):
    data, small = catalogue(*sizes), SMALL | {"model.system": name}
    alone = scores(fit(data, configure(small)))
    both = scores(fit(data, configure(small | content | {"model.item_item": 7.0})))
    ease = scores(fit(data, configure(SMALL | content | {"model.system": "ease"})))
    assert np.abs(ease).max() > 0.01
    np.testing.assert_allclose(both, alone + 7.0 * ease, rtol=0, atol=1e-5)


def test_cold_items_have_both_parts():
    data = catalogue()
    plain, none, both = (
        built(data),
        built(data, **{"model.item_item": 2.0}),
        built(data, **{"model.item_item": 2.0} | CONTENT),
    )
    alone = plain.cold_items()
    for system in (none, both):
        found = system.cold_items()
        assert found.shape == (100, 116) and torch.equal(found[:, :16], alone)
        by_features = system.item_item.ease.cold_items()
        assert torch.equal(found[:, 16:], torch.zeros(100, 100) if by_features is None else 2.0 * by_features)
    assert both.item_item.ease.cold_items().abs().max() > 0.001


def test_cold_items_of_a_system_without_features():
    data = catalogue()
    assert built(data, "lightgcn", **{"model.item_item": 2.0}).cold_items() is None
    system = built(data, "lightgcn", **{"model.item_item": 2.0} | CONTENT)
    found = system.cold_items()
    assert torch.equal(found[:, :16], torch.zeros(100, 16))
    assert torch.equal(found[:, 16:], 2.0 * system.item_item.ease.cold_items())
    train = data.train.toarray()
    train[:, 4] = 0
    system = built(replace(data, train=sp.csr_array(train)), "lightgcn", **{"model.item_item": 2.0} | CONTENT)
    items = system.embeddings()[1]
    assert not items[4, :16].any() and items[4, 16:].abs().max() > 0.001


def test_a_checkpoint_holds_sparse_embeddings():
    data = catalogue()
    users, items = built(data, **{"model.item_item": 2.0}).embeddings()
    assert isinstance(users, sp.csr_array)
    tensors, values = Fit(users, items, {}).state()
    other = Fit(users * 0, torch.zeros_like(items), {})
    other.load_state(tensors, values)
    assert (other.users != users).nnz == 0 and torch.equal(other.items, items)
    for name, value in (("columns", torch.tensor([3])), ("values", torch.zeros(1))):
        with pytest.raises(ValueError, match=r"index|indices|size|length"):
            other.load_state(tensors | {f"best.users.{name}": value}, values)
    with pytest.raises(ValueError, match=r"best\.users is torch\.float32"):
        other.load_state({"best.users": torch.zeros(users.shape), "best.items": items}, values)
    assert unpacked(packed("x", items), "x") is not None


@pytest.mark.parametrize("name", ["mmssl", "ncl"])
def test_commands_and_resume(name, tmp_path, capsys):
    data = catalogue(80, 60)
    train = data.train.toarray()
    test = np.maximum(data.test.toarray(), train * (np.arange(60) == 4))
    train[:, 4] = 0
    place = write_plain(replace(data, train=sp.csr_array(train), test=sp.csr_array(test)), tmp_path / "data")
    options = [f"--set={name}={json.dumps(value)}" for name, value in (SMALL | CONTENT).items() if "epochs" not in name]
    begin = ["train", "--data", str(place), "--system", name, "--set", "model.item_item=5", *options]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*begin, "--out", str(whole), "--epochs", "3"]) == 0
    assert main([*begin, "--out", str(parts), "--epochs", "1"]) == 0
    assert main(["train", "--resume", str(parts), "--epochs", "3"]) == 0
    first, second = load(whole), load(parts)
    assert (first.users != second.users).nnz == 0 and torch.equal(first.items, second.items)
    assert first.items.shape == (60, 76)
    assert main(["evaluate", str(whole), "--k", "5"]) == 0
    assert main(["evaluate", str(whole), "--cold"]) == 0
    assert main(["recommend", str(whole), "--users", "3", "--k", "2"]) == 0
    assert main(["report", str(whole), "--out", str(tmp_path / "page.html")]) == 0
    capsys.readouterr()


def test_what_it_cannot_do_is_refused_in_one_line(tmp_path, monkeypatch):
    data = catalogue()
    model = fit_model(data, configure(SMALL | {"model.item_item": 2.0}))
    calls = [lambda: fold_in(model, [[1, 2]]), lambda: export(model, tmp_path / "e", "npy")]
    for call in calls:
        with pytest.raises(InputError, match=r"needs dense embeddings|with model\.item_item this is not implemented"):
            call()
    monkeypatch.setattr("mmssl_fast.distributed.current", lambda: Ranks(rank=0, size=2))
    for name in ("mmssl", "lightgcn"):
        with pytest.raises(InputError, match=r"model\.item_item: one process only .* leave out --ranks"):
            built(data, name, **{"model.item_item": 2.0})


@pytest.mark.parametrize("name", ["ease", "lightgcn"])
def test_content_without_features_is_refused(name):
    data = replace(catalogue(), features={})
    values = {"model.system": name, "model.item_item": 2.0 * (name != "ease")} | SMALL | CONTENT
    with pytest.raises(InputError, match=r"has no features, which ease\.content = 3 needs; add .* or set it to 0$"):
        fit(data, configure(values))


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in TRAINED])
def test_a_system_that_does_not_train_refuses_it(name, tmp_path):
    config = configure({"model.system": name, "model.item_item": 2.0, "model.dim": 16})
    message = r"^model\.item_item = 2: .* cannot have an item-item part; set it to 0, or choose one of mmssl, mf, "
    with pytest.raises(InputError, match=message):
        fit(catalogue(), config)
    space = tmp_path / "space.toml"
    space.write_text("[model]\ndim = [8, 16]\n")
    with pytest.raises(InputError, match=message):
        tune(config, tmp_path / "tuned", space=space, trials=1)


@pytest.mark.parametrize("name", ["mmssl", "ncl"])
def test_the_memory_plan_has_the_matrix(name):
    data, small = catalogue(), SMALL | {"model.system": name}
    plans = [stages(sizes_of(data, configure(small | more))) for more in ({}, {"model.item_item": 2.0})]
    names = [{stage.name: stage for stage in plan} for plan in plans]
    assert names[1].keys() - names[0].keys() == {
        "inverse, items x items",
        "item-item weights",
        "best embeddings with the item-item part",
        "validation of both parts",
    }
    assert names[1]["best embeddings with the item-item part"].persistent == 4 * 100 * 116
