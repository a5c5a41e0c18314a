"""`train --from` on other data: users and items are mapped by their ids, and the rest starts anew."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmssl_trainer import configure
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.data.dataset import build
from mmssl_trainer.runs import saved_model
from mmssl_trainer.runs.warm_start import NEAREST, start_from
from mmssl_trainer.systems import SYSTEMS, create
from mmssl_trainer.training import loop
from mmssl_trainer.training.start import Start

TRAINED = sorted(name for name in SYSTEMS if create(name).trains)
USERS, ITEMS = 80, 60


@pytest.fixture(scope="module")
def tomorrow():
    """All users and items, in another order than yesterday."""
    return synthetic(seed=1, n_users=USERS, n_items=ITEMS, modalities={"image": 8, "text": 6}, mean_degree=14)


@pytest.fixture(scope="module")
def yesterday(tomorrow):
    """The catalogue without its first 7 users and 5 items; its ids are the numbers of tomorrow, in descending order."""
    users, items = np.arange(7, USERS)[::-1], np.arange(5, ITEMS)[::-1]
    splits = {name: getattr(tomorrow, name)[users][:, items].nonzero() for name in ("train", "val", "test")}
    features = {name: values[items] for name, values in tomorrow.features.items()}
    shape = len(users), len(items)
    return build("yesterday", "made", shape, splits, features, user_ids=users.copy(), item_ids=items.copy())


def settings(system, **values):
    small = {"model.dim": 8, "model.heads": 2, "train.epochs": 1, "train.threads": 1, "train.batch": 200}
    return configure({"model.system": system} | small | values)


@pytest.fixture(scope="module")
def model_of(yesterday, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def make(system, item_item=0.0):
        path = folder / f"{system}-{item_item}.safetensors"
        if not path.exists():
            config = settings(system, **{"model.item_item": item_item})
            saved_model.save(saved_model.Model.of(loop.fit(yesterday, config), yesterday, config), path)
        return path

    return make


def started(system, start, dataset):
    """The parameters of a run that starts from these values, before the first step, and those of a run without."""
    config = settings(system, **{"train.epochs": 0})
    instances = [create(system), create(system)]
    for instance, values in zip(instances, (start, None), strict=True):
        loop.Run(dataset, config, loop.NullObserver(), instance, start=values)
    return [instance.parameters() for instance in instances]


@pytest.mark.parametrize("system", TRAINED)
def test_known_rows_are_kept_and_new_rows_start_anew(model_of, tomorrow, system):
    path = model_of(system)
    start, note = start_from(str(path), tomorrow, system)
    assert f"knows {USERS - 7} of {USERS} users and {ITEMS - 5} of {ITEMS} items" in note
    old, (new, initial) = saved_model.load(path).parameters, started(system, start, tomorrow)
    trained = dict(create_trained(system, tomorrow))
    by_features = "nearest known items" in note
    assert trained
    for name in trained:
        rows = len(initial[name]) if initial[name].ndim else 0
        if rows == USERS:
            assert torch.equal(new[name][7:], old[name].flip(0)), name
            assert torch.equal(new[name][:7], initial[name][:7]), name
        elif rows == ITEMS:
            assert torch.equal(new[name][5:], old[name].flip(0)), name
            assert by_features or torch.equal(new[name][:5], initial[name][:5]), name
            assert not by_features or not torch.equal(new[name][:5], initial[name][:5]), name
        else:
            assert torch.equal(new[name], old[name]), name
    config = settings(system)
    loop.fit(tomorrow, config, start=start)  # and the run goes on


def create_trained(system, dataset):
    instance = create(system)
    loop.Run(dataset, settings(system, **{"train.epochs": 0}), loop.NullObserver(), instance)
    return instance.trained_parameters()


@pytest.mark.parametrize("item_item", [0.0, 3.0])
def test_new_items_start_from_their_nearest_known_items(model_of, tomorrow, yesterday, item_item):
    path = model_of("clcrec", item_item)
    start, note = start_from(str(path), tomorrow, "clcrec")
    assert f"new items start from their {NEAREST} nearest known items by features" in note
    model = saved_model.load(path)
    system = saved_model.inference(model)
    weights = system.weights(model.parameters)
    scaled = [model.scaling(name, torch.from_numpy(values)) for name, values in tomorrow.features.items()]
    present = [torch.ones(len(values), 1) for values in scaled]
    unit = torch.nn.functional.normalize(system.content(weights, scaled, present))
    warm = torch.from_numpy(np.flatnonzero(yesterday.train.sum(axis=0)))
    place = torch.from_numpy(yesterday.original_items(warm.numpy()))
    near = warm[(unit[:5] @ unit[place].T).topk(NEAREST).indices]
    torch.testing.assert_close(start.parameters["items"][:5], model.parameters["items"][near].mean(1))


def test_neighbours_are_those_of_the_new_data(model_of, tomorrow):
    start, _ = start_from(str(model_of("mmssl")), tomorrow, "mmssl")
    new, _ = started("mmssl", start, tomorrow)
    instance = create("mmssl")
    loop.Run(tomorrow, settings("mmssl", **{"train.epochs": 0}), loop.NullObserver(), instance, start=start)
    instance.model.refresh_neighbours()
    assert torch.equal(new["semantic_neighbours"], instance.model.semantic_neighbours)


def test_equal_data_keeps_everything(model_of, yesterday):
    path = model_of("mmssl")
    start, note = start_from(str(path), yesterday, "mmssl")
    assert note is None and start.same_data
    new, _ = started("mmssl", start, yesterday)
    assert all(torch.equal(new[name], tensor) for name, tensor in saved_model.load(path).parameters.items())


def test_same_ids_in_another_order_are_mapped(model_of, yesterday):
    flipped = replace(
        yesterday,
        user_ids=yesterday.user_ids[::-1].copy(),
        train=yesterday.train[::-1],
        val=yesterday.val[::-1],
        test=yesterday.test[::-1],
    )
    start, note = start_from(str(model_of("lightgcn")), flipped, "lightgcn")
    assert note is not None and not start.same_data
    old = saved_model.load(model_of("lightgcn")).parameters
    assert torch.equal(start.parameters["users"], old["users"].flip(0))
    assert torch.equal(start.parameters["items"], old["items"])


@pytest.mark.parametrize("system", TRAINED)
def test_scale_shrinks_the_embeddings_alone(model_of, tomorrow, yesterday, system):
    """0.5 is exact in float32. Confidences start at 1 and biases have a scale of their own, so neither is shrunk."""
    path = model_of(system)
    kept = {"user_confidence", "item_confidence", "item_bias"}
    for data in (tomorrow, yesterday):
        (whole, note), (half, _) = (start_from(str(path), data, system, scale) for scale in (1.0, 0.5))
        default, _ = start_from(str(path), data, system)
        shrunk = set()
        for name, tensor in whole.parameters.items():
            assert torch.equal(default.parameters[name], tensor), name
            if torch.equal(half.parameters[name], tensor):
                continue
            torch.testing.assert_close(half.parameters[name], 0.5 * tensor, rtol=1e-6, atol=0, msg=name)
            shrunk.add(name)
        counts = data.n_users, data.n_items
        with_rows = {name for name, tensor in create_trained(system, data) if tensor.ndim and len(tensor) in counts}
        assert shrunk == with_rows - kept and shrunk, system
        assert all(torch.equal(half.known[name], rows) for name, rows in whole.known.items())
    old = saved_model.load(path).parameters
    whole, note = start_from(str(path), yesterday, system, 1.0)
    assert note is None and all(torch.equal(whole.parameters[name], tensor) for name, tensor in old.items())


def test_new_rows_are_not_shrunk_by_the_scale(model_of, tomorrow):
    start, _ = start_from(str(model_of("lightgcn")), tomorrow, "lightgcn", 0.5)
    old = saved_model.load(model_of("lightgcn")).parameters
    new, initial = started("lightgcn", start, tomorrow)
    for name, count in (("users", 7), ("items", 5)):
        assert torch.equal(new[name][count:], 0.5 * old[name].flip(0))
        assert torch.equal(new[name][:count], initial[name][:count])


@pytest.mark.parametrize("scale", ["0", "1.5", "-0.4", "nan", "much"])
def test_scale_outside_its_range_is_refused(scale, tmp_path, capsys):
    assert main(["train", "--epochs", "1", "--out", str(tmp_path / "run"), "--set", f"train.start_scale={scale}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"train.start_scale = {scale}: " in said.replace("'", "").replace('"', "")


def test_command_says_what_is_known(tomorrow, yesterday, tmp_path, capsys):
    small = ["--system", "lightgcn", "--epochs", "2", "--threads", "1", "--batch", "200", "--set", "model.dim=8"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "--data", str(write_plain(yesterday, tmp_path / "a")), "--out", str(first), *small]) == 0
    capsys.readouterr()
    begin = ["train", "--from", str(first), "--data", str(write_plain(tomorrow, tmp_path / "b"))]
    assert main([*begin, "--out", str(second), "--epochs", "1"]) == 0
    said = capsys.readouterr().err
    assert f"the model knows {USERS - 7} of {USERS} users and {ITEMS - 5} of {ITEMS} items" in said
    assert json.loads((second / "result.json").read_text())["test"]["recall@20"] > 0
    third = tmp_path / "third"
    begin = ["train", "--from", str(first), "--data", str(tmp_path / "b"), "--set", "train.start_scale=0.5"]
    assert main([*begin, "--out", str(third), "--epochs", "0"]) == 0
    old, new = (saved_model.load(run).parameters["users"] for run in (first, third))
    assert torch.equal(new[7:], 0.5 * old.flip(0))


def test_wrong_shapes_are_named(model_of, tomorrow):
    start, _ = start_from(str(model_of("lightgcn")), tomorrow, "lightgcn")
    broken = Start("RUN", {**start.parameters, "users": torch.zeros(3, 3)}, start.known, same_data=False)
    with pytest.raises(loop.InputError, match=r"RUN: .* users has the shape \(3, 3\) instead of \(80, 8\)"):
        started("lightgcn", broken, tomorrow)


@pytest.mark.parametrize(
    "change, now",
    [
        (lambda old: {"sound": old["image"], "text": old["text"]}, "sound of width 8, text of width 6"),
        (lambda old: {"image": old["text"], "text": old["image"]}, "image of width 6, text of width 8"),
        (lambda old: {"text": old["text"], "image": old["image"]}, "text of width 6, image of width 8"),
    ],
    ids=["other names", "other widths", "other order"],
)
@pytest.mark.parametrize("item_item", [0.0, 3.0])
def test_features_of_equal_total_width_are_not_mistaken_for_each_other(
    model_of, tomorrow, yesterday, change, now, item_item
):
    """LightGCN-M projects the concatenated features, so that the shapes of its parameters would fit."""
    for data in (tomorrow, yesterday):
        other = replace(data, features=change(data.features))
        with pytest.raises(loop.InputError, match=f"the model has the features image of width 8, .* has {now}; give"):
            start_from(str(model_of("lightgcn_m", item_item)), other, "lightgcn_m")
        start_from(str(model_of("lightgcn", item_item)), other, "lightgcn")
