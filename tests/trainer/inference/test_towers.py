"""Users and items outside the training data: the towers equal the systems, before and after the model file."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import InputError, configure, embed_items, fold_in, load, save, similar
from mmssl_trainer.data import synthetic
from mmssl_trainer.data.dataset import build
from mmssl_trainer.inference.new_items import embed_both, with_new_items
from mmssl_trainer.inference.scale import scale_of
from mmssl_trainer.inference.towers import item_tower
from mmssl_trainer.runs.saved_model import FORMAT_WITHOUT_INFERENCE
from mmssl_trainer.systems import SYSTEMS, title
from trained_models import histories, trained, written

NO_USERS = {"mf", "vbpr", "clcrec", "grcn"}
SPARSE = {"ease", "itemknn", "userknn"}  # a user is a row of the interactions or of similarities
WITH_ITEMS = {"mmssl", "vbpr", "lightgcn_m", "mmgcn", "grcn", "mmgcl", "slmrec", "clcrec"}


@pytest.fixture(scope="module")
def data():
    """Users without history and items without interactions occur, and ids are not indices."""
    whole = synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)
    whole.features["image"][:, 3] = 7  # a constant column is 0 after standardisation
    pairs = {name: getattr(whole, name).nonzero() for name in ("train", "val", "test")}
    kept = (pairs["train"][0] != 5) & (pairs["train"][1] % 9 != 0)
    pairs["train"] = tuple(side[kept] for side in pairs["train"])
    ids = np.arange(70) * 3 + 100
    return build("made", "made", (90, 70), pairs, whole.features, item_ids=ids)


VARIANTS = [
    ("mmssl", {}),
    ("mmssl", {"model__norm": "both", "model__layers": 3, "model__final_softmax": False}),
    (
        "mmssl",
        {
            "model__norm": "none",
            "model__neighbours": 0,
            "loss__contrastive": False,
            "model__standardise": False,
            "model__layers": 1,
        },
    ),
    ("mmssl", {"model__exclude_seen_neighbours": False, "model__omega": 0.7, "model__eta": 0.9}),
    ("svd", {}),
    ("svd", {"svd__content": 0.5, "svd__user_exponent": 0.3, "svd__item_exponent": 0.7, "svd__power": 2}),
    *((name, {}) for name in sorted(SYSTEMS.keys() - NO_USERS - SPARSE - {"mmssl", "svd"})),
]


@pytest.mark.parametrize("name, values", VARIANTS)
def test_history_gives_what_the_layers_give_a_known_user(data, tmp_path, name, values):
    """Without the id embeddings of users, the embedding of a known user depends on its items only."""
    _, model = trained(data, name, **values)
    known = [user for user in range(90) if user != 5]
    found = fold_in(written(model, tmp_path), histories(data, known))
    torch.testing.assert_close(found, model.users[known], rtol=2e-4, atol=2e-6)
    assert found.abs().amax() > 0
    again = fold_in(model, histories(data, known))  # torch's products round by the alignment of a tensor in memory
    torch.testing.assert_close(found, again, rtol=1e-6, atol=1e-7)
    assert not fold_in(model, [[]]).any()


@pytest.mark.parametrize("name", [*sorted(WITH_ITEMS), "svd"])
def test_features_give_the_embedding_of_a_cold_item(data, tmp_path, name):
    values = {"svd__content": 0.5} if name == "svd" else {}
    system, model = trained(data, name, **values)
    some = {modality: features[10:25] for modality, features in data.features.items()}
    again = written(model, tmp_path)
    found = embed_both(again, some)[1]
    torch.testing.assert_close(found, system.cold_items()[10:25], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(embed_items(again, some), item_tower(again).scaled(found), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(embed_items(again, some), embed_items(model, some), rtol=1e-5, atol=1e-6)  # alignment
    assert found.abs().amax() > 0


def test_float16_and_integer_features(data):
    _, model = trained(data, "mmssl")
    halves = {name: values.astype(np.float16) for name, values in data.features.items()}
    exact = {name: values.astype(np.float64) for name, values in halves.items()}
    assert torch.equal(embed_items(model, halves), embed_items(model, exact))
    whole = {name: np.ones(values.shape, np.int64) for name, values in data.features.items()}
    assert embed_items(model, whole).isfinite().all()


def test_collaborative_part_comes_from_the_nearest_known_items(data):
    _, model = trained(data, "clcrec")
    some = {modality: features[1:4] for modality, features in data.features.items()}
    cold, by_features = embed_both(model, some)[1], embed_both(model, data.features)[1]
    warm = np.flatnonzero(data.train.sum(axis=0) > 0)
    unit = torch.nn.functional.normalize
    nearest = warm[(unit(cold) @ unit(by_features[warm]).T).topk(3).indices.numpy()]
    parts = model.items - by_features
    expected = cold + parts[torch.from_numpy(nearest)].mean(1)
    others = unit(by_features[warm]) @ unit(by_features[warm]).T
    others.fill_diagonal_(-2)  # a known item is represented by other items
    near = warm[others.topk(3).indices.numpy()]
    scale = scale_of(model, torch.from_numpy(warm), by_features[warm] + parts[torch.from_numpy(near)].mean(1))
    torch.testing.assert_close(embed_items(model, some, nearest=3), scale.factor * expected + scale.shift)
    with pytest.raises(InputError, match="nearest = -1: must be between 0 and 62"):
        embed_items(model, some, nearest=-1)


@pytest.mark.parametrize("name", sorted(NO_USERS))
def test_systems_that_train_their_users_refuse_in_one_line(data, name):
    _, model = trained(data, name)
    with pytest.raises(InputError, match=r"^[\w-]+ cannot embed a user by a history: [^\n]*train[^\n]*$"):
        fold_in(model, [[100]])


@pytest.mark.parametrize("name", sorted(SPARSE))
def test_systems_that_embed_training_data_only_refuse_in_one_line(data, name):
    _, model = trained(data, name)
    with pytest.raises(InputError, match=r"^[\w-]+ cannot embed a user by a history: [^\n]*not implemented[^\n]*$"):
        fold_in(model, [[100]])


@pytest.mark.parametrize("name", sorted(SYSTEMS.keys() - WITH_ITEMS))
def test_systems_without_features_refuse_in_one_line(data, name):
    _, model = trained(data, name)
    with pytest.raises(InputError, match=r"^[\w-]+ cannot embed an item by its features: [^\n]+$"):
        embed_items(model, data.features)


def test_earlier_files_are_refused_for_this_and_nothing_else(data, tmp_path):
    _, model = trained(data, "mmssl")
    model.metadata = {"format": FORMAT_WITHOUT_INFERENCE, "system": "mmssl", "mmssl_fast": "0.1.7", "data": "made"}
    again = written(model, tmp_path)
    assert again.content is None and torch.equal(again.users, model.users)
    for ask in (lambda: fold_in(again, [[103]]), lambda: embed_items(again, data.features)):
        with pytest.raises(InputError, match=r"written by mmssl_fast 0.1.7, and lacks the settings .* train again$"):
            ask()
    assert similar(again, [103], k=3).rank.tolist() == [1, 2, 3]


@pytest.mark.parametrize("settings", ["[" * 100_000, "{", '{"model": {"dims": 3}}', '{"model": {"layers": "many"}}'])
def test_damaged_settings_are_one_line(data, settings):
    _, model = trained(data, "lightgcn")
    model.metadata["settings"] = settings
    with pytest.raises(InputError, match=r"^the settings of the model of made cannot be read [^\n]*train again$"):
        fold_in(model, [[103]])


def test_missing_parameters_are_one_line(data):
    _, model = trained(data, "mmssl")
    model.parameters.pop("user_embedding")
    with pytest.raises(InputError, match=r"^the model of made cannot embed users: 'user_embedding' [^\n]*train again$"):
        fold_in(model, [[103]])
    model.parameters["projections.0.weight"] = torch.zeros(3, 3)
    model.content = model.scaling = None
    with pytest.raises(InputError, match=r"^the model of made cannot embed items: [^\n]*: train again$"):
        embed_items(model, data.features)


@pytest.mark.parametrize("name, parameter", [("svd", "unit_means"), ("clcrec", "encoder.2.weight")])
def test_missing_parameters_of_a_model_with_content_are_one_line(data, tmp_path, name, parameter):
    """SVD: models of earlier versions have no means."""
    model = written(trained(data, name, **({"svd__content": 0.5} if name == "svd" else {}))[1], tmp_path)
    del model.parameters[parameter]
    with pytest.raises(
        InputError, match=rf"^the model of made cannot embed items: '{parameter}' is missing; [^\n]*train again$"
    ):
        embed_items(model, data.features)


def test_unknown_items_are_named_or_skipped(data):
    _, model = trained(data, "lightgcn")
    with pytest.raises(InputError, match=r"not in the training data: 'x' in histories\[0\], '1' in histories\[1\];"):
        fold_in(model, [[103, "x"], ["x", 1]])
    found = fold_in(model, [[103, "x", 106], ["x"]], unknown="skip")
    assert torch.equal(found[:1], fold_in(model, [["106", 103, 103]])) and not found[1].any()
    with pytest.raises(InputError, match="unknown = 'drop': must be refuse or skip"):
        fold_in(model, [], unknown="drop")


def test_wrong_features_are_named(data):
    _, model = trained(data, "vbpr")
    image, text = data.features["image"], data.features["text"]
    broken = text.copy()
    broken[4, 2] = np.nan
    for features, fragment in (
        ({"image": image}, "features 'text' are missing; the modalities of the model are image, text"),
        ({"image": image, "text": text, "audio": text}, "features 'audio': is not a modality of the model"),
        ({"image": image, "text": text[:, :5]}, r"features 'text': have the shape \(70, 5\)"),
        ({"image": image, "text": text[:5]}, "features 'text': have 5 rows, those of 'image' have 70"),
        ({"image": image, "text": broken}, "features 'text': row 4 contains a value that is not finite"),
    ):
        with pytest.raises(InputError, match=fragment):
            embed_items(model, features)


def test_new_items_stand_after_those_of_the_model(data):
    _, model = trained(data, "mmssl")
    some = {modality: features[:2] for modality, features in data.features.items()}
    more = with_new_items(model, [7, 8], some)
    assert more.interactions.n_items == 72 and more.interactions.find_items([7, 103]).tolist() == [70, 1]
    assert torch.equal(more.items[70:], embed_items(model, some))
    warm = np.flatnonzero(data.train.sum(axis=0) > 0)
    assert torch.equal(more.items[warm], model.items[warm])
    assert more.interactions.train.shape == (90, 72) and more.interactions.original_items([71]).tolist() == [8]
    for ids, fragment in (([7, 103], "'103' is already an item of the model"), ([7, "7"], "'7' occurs twice")):
        with pytest.raises(InputError, match=fragment):
            with_new_items(model, ids, some)


def test_similar_items_are_those_of_the_highest_cosine(data):
    _, model = trained(data, "mmssl")
    found = similar(model, [103, "130"], k=4)
    unit = torch.nn.functional.normalize(model.items)
    for at, index in enumerate((1, 10)):
        cosine = unit @ unit[index]
        cosine[index] = -2
        best = cosine.topk(4)
        assert found.similar[4 * at : 4 * at + 4].tolist() == (best.indices * 3 + 100).tolist()
        np.testing.assert_allclose(found.cosine[4 * at : 4 * at + 4], best.values, atol=1e-6)
    assert found.item.tolist() == [103] * 4 + [130] * 4 and found.rank.tolist() == [1, 2, 3, 4] * 2
    by_features = torch.nn.functional.normalize(embed_both(model, data.features)[1])
    order = (by_features @ by_features[1]).argsort(descending=True)
    assert similar(model, [103], k=3, by="features").similar.tolist() == (order[order != 1][:3] * 3 + 100).tolist()


def test_similar_refuses_what_it_cannot_know(data):
    _, model = trained(data, "lightgcn")
    with pytest.raises(InputError, match="item 'x' is not in the data"):
        similar(model, ["x"])
    with pytest.raises(InputError, match="nothing is known about the item 100"):
        similar(model, [100])
    with pytest.raises(InputError, match="k = 70: must be between 1 and 69"):
        similar(model, [103], k=70)
    with pytest.raises(InputError, match="LightGCN cannot embed an item by its features"):
        similar(model, [103], by="features")
    cold = {100 + 27 * n for n in range(8)}
    assert not cold & set(similar(model, [103], k=60).similar.tolist())


def test_the_file_says_what_it_was_made_with(data, tmp_path):
    _, model = trained(data, "svd", svd__content=0.5)
    again = written(model, tmp_path)
    settings = json.loads(again.metadata["settings"])
    assert settings["svd"]["content"] == 0.5 and set(settings) == {"model", "svd"}
    assert list(again.scaling.mean) == ["image", "text"] and again.content.shape == (70, 14)


def test_histories_are_sets(data):
    from mmssl_trainer.inference.histories import history_rows

    rows = history_rows(data, [[103, 106, "103"], []])
    assert isinstance(rows, sp.csr_array) and rows.shape == (2, 70) and rows.indices.tolist() == [1, 2]
    assert rows.data.tolist() == [1, 1]


def test_a_tower_has_the_dtype_of_its_weights(data):
    from mmssl_trainer.systems.inference import ItemTower, Scaling
    from mmssl_trainer.systems.vbpr import VBPRInference

    system, model = trained(data, "vbpr")
    weights = {name: tensor.double() for name, tensor in model.parameters.items()}
    tower = ItemTower(
        VBPRInference(configure({"model.dim": 8, "model.heads": 2})), weights, Scaling.of(data.features, True)
    )
    found = tower(*(torch.from_numpy(values) for values in data.features.values()))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), system.cold_items(), rtol=1e-4, atol=1e-6)


def test_every_system_says_what_it_can():
    from mmssl_trainer.config.names import system_class
    from mmssl_trainer.systems.inference import Inference

    for name in SYSTEMS:
        kind = vars(system_class(name))["inference"]
        assert issubclass(kind, Inference)
        system = kind(configure({"model.system": name}))
        assert bool(system.no_users) == (name in NO_USERS | SPARSE), name
        assert bool(system.no_items) == (name not in WITH_ITEMS), name


def test_the_table_of_the_documentation_has_what_every_system_can():
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    table = page.partition("| system | user from a history |")[2].partition("\n\n")[0]
    said = {}
    for systems, user, item, *_ in (line.strip("| ").split(" | ") for line in table.splitlines()[2:]):
        for system in systems.split(", "):
            said[system.partition(" with ")[0]] = user.startswith("yes"), item == "yes"
    assert said == {title(name): (name not in NO_USERS | SPARSE, name in WITH_ITEMS) for name in SYSTEMS}


@pytest.mark.parametrize(
    "tensors, metadata, fragment",
    [
        ({"content": torch.ones(3, 16)}, {}, r"content is \(3, 16\) of torch.float32, not float32 with 70 rows"),
        ({"content": torch.ones(70, 16).double()}, {}, "content is .* of torch.float64"),
        ({"scaling.0.mean": torch.ones(2, 2).double()}, {}, r"the scaling of image is \(2, 2\)"),
        ({"scaling.1.scale": torch.ones(3).double()}, {}, "the scaling of text"),
        ({}, {"modalities": '["image", "text", "audio"]'}, "tensor 'scaling.2.mean' is missing"),
        ({}, {"modalities": "[" * 100_000}, "is nested too deeply"),
        ({}, {"modalities": "7"}, "modalities is '7', not a list of names"),
        ({}, {"modalities": "[["}, "[^\n]*train again"),
    ],
)
def test_damaged_content_is_refused(data, tmp_path, tensors, metadata, fragment):
    from mmssl_trainer.files import read_header, write_tensors
    from safetensors import safe_open
    from safetensors.torch import load_file

    _, model = trained(data, "mmssl")
    path = tmp_path / "model.safetensors"
    save(model, path)
    with safe_open(path, "pt") as file:
        header = read_header(file.metadata())
    write_tensors(path, load_file(path) | tensors, header | metadata)
    with pytest.raises(InputError, match=f"{path}: {fragment}"):
        load(path)
