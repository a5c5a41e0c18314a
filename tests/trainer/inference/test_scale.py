"""The scores of new items are on the scale of those of known items, for every system that can embed them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmssl_trainer import InputError, configure, embed_items, recommend
from mmssl_trainer.data import synthetic
from mmssl_trainer.data.dataset import build
from mmssl_trainer.embeddings import on_cpu
from mmssl_trainer.inference.new_items import with_new_items
from mmssl_trainer.inference.scale import scale_of
from mmssl_trainer.inference.towers import item_tower
from mmssl_trainer.runs.saved_model import Model
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.page.parts import Parts
from mmssl_trainer.systems import create
from mmssl_trainer.training import loop

SYSTEMS = ["mmssl", "vbpr", "lightgcn_m", "mmgcn", "grcn", "mmgcl", "slmrec", "clcrec", "svd"]
COLD = [2, 13, 24, 35, 46, 57, 68]
BARE = 4  # has interactions and no features


@pytest.fixture(scope="module")
def data():
    """Items without interactions occur, one of them without features, an item that has only interactions, and a user
    without."""
    whole = synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)
    pairs = {name: getattr(whole, name).nonzero() for name in ("train", "val", "test")}
    kept = (pairs["train"][0] != 5) & (pairs["train"][1] % 11 != 2)
    pairs["train"] = tuple(side[kept] for side in pairs["train"])
    for values in whole.features.values():
        values[[COLD[-1], BARE]] = np.nan
    return build("made", "made", (90, 70), pairs, whole.features)


def described(data):
    """The items with interactions and features."""
    has_features = ~np.isnan(data.features["image"][:, 0])
    return np.flatnonzero((data.train.sum(axis=0) > 0) & has_features)


def model_of(data, name, **values):
    """(System, Model) after two epochs."""
    settings = {"model.system": name, "model.dim": 8, "model.heads": 2, "train.epochs": 2, "train.batch": 300}
    config = configure(settings | {"train.threads": 1, "svd.content": 0.5} | values)
    system = create(name)
    fit = loop.fit(data, config, system=system)
    fit.users, fit.items = map(on_cpu, system.embeddings())
    fit.parameters = {key: tensor.clone() for key, tensor in system.parameters().items()}
    return system, Model.of(fit, data, config)


def written_out(users, trained, as_new):
    """(factor, shift) from the scores of all users: the mean for every user, the deviation over the items in the mean
    of the users. float64 [n, d] each."""
    scores, found = users @ trained.T, users @ as_new.T
    here = scores.std(1) > 1e-6 * scores.std(1).max()
    assert 50 < here.sum() < 90
    factor = ((found.std(1)[here] / scores.std(1)[here]) ** 2).mean() ** -0.5
    assert abs(np.log(factor)) > 0.01
    return factor, trained.mean(0) - factor * as_new.mean(0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_known_items_as_if_new_score_as_they_do(data, name):
    """Mean for every user, deviation over the items in the mean of the users: written out with all scores."""
    system, model = model_of(data, name)
    known = described(data)
    users, trained = (table.double().numpy() for table in (model.users, model.items[known]))
    as_new = system.cold_items().double().numpy()[known]
    factor, shift = written_out(users, trained, as_new)
    found = embed_items(model, {m: x[known] for m, x in data.features.items()}).double().numpy()
    largest = np.abs(users @ trained.T).max()
    np.testing.assert_allclose(users @ found.T, users @ (factor * as_new + shift).T, atol=2e-4 * largest)
    np.testing.assert_allclose((users @ found.T).mean(1), (users @ trained.T).mean(1), atol=2e-5 * largest)


@pytest.mark.parametrize("name", ["vbpr", "clcrec"])
def test_parts_of_the_nearest_items_have_a_scale_of_their_own(data, name):
    """A known item gets the collaborative parts of the nearest others, a new one those of the nearest known ones."""
    system, model = model_of(data, name)
    known, warm = described(data), np.flatnonzero(data.train.sum(axis=0) > 0)
    users, items, by_features = (x.double().numpy() for x in (model.users, model.items, system.cold_items()))
    unit = by_features / np.maximum(np.linalg.norm(by_features, axis=1, keepdims=True), 1e-30)
    cosine = unit[known] @ unit[warm].T
    parts = (items - by_features)[warm]

    def with_nearest(cosine):
        return by_features[known] + parts[np.argsort(-cosine, 1)[:, :4]].mean(1)

    factor, shift = written_out(users, items[known], with_nearest(np.where(known[:, None] == warm, -2, cosine)))
    found = embed_items(model, {m: x[known] for m, x in data.features.items()}, nearest=4).double().numpy()
    expected = factor * with_nearest(cosine) + shift
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("nearest", [0, 4])
@pytest.mark.parametrize("name", ["svd", "clcrec"])
def test_items_of_the_data_without_interactions_are_like_new_ones(data, name, nearest):
    _, model = model_of(data, name)
    features = {modality: values[COLD[:-1]] for modality, values in data.features.items()}
    more = with_new_items(model, range(900, 906), features, nearest)
    torch.testing.assert_close(more.items[COLD[:-1]], more.items[70:])
    assert not torch.equal(more.items[COLD[:-1]], model.items[COLD[:-1]]) and not more.items[COLD[-1]].any()
    again = with_new_items(model, [], {modality: values[:0] for modality, values in data.features.items()}, nearest)
    assert torch.equal(again.items, more.items[:70])


def test_items_without_features_stay_last(data):
    _, model = model_of(data, "svd")
    tower = item_tower(model)
    assert tower.shift.abs().amax() > 0 and not tower(*(torch.full((2, n), torch.nan) for n in (8, 6))).any()
    found = recommend(model, k=70, new_items=([], {m: x[:0] for m, x in data.features.items()}))
    last = {user: item for user, item in zip(found.user.tolist(), found.item.tolist(), strict=True)}
    assert set(last.values()) == {COLD[-1]}


def test_new_items_get_their_share_of_the_lists():
    """An SVD with features hardly ever recommended them, a CLCRec nothing else."""
    whole = synthetic(seed=2, n_users=300, n_items=250, modalities={"image": 8, "text": 6}, mean_degree=15)
    held = np.arange(whole.n_items) % 5 == 0
    pairs = {name: getattr(whole, name).nonzero() for name in ("train", "val", "test")}
    pairs["train"] = tuple(side[~held[pairs["train"][1]]] for side in pairs["train"])
    data = build("made", "made", (whole.n_users, whole.n_items), pairs, whole.features)
    for name in ("svd", "clcrec"):
        _, model = model_of(data, name)
        features = {modality: values[:0] for modality, values in data.features.items()}
        found = recommend(model, k=20, new_items=([], features))
        assert 0.02 < held[found.item].mean() < 0.4


def test_degenerate_models_have_a_finite_scale(data):
    _, model = model_of(data, "svd")
    known = torch.tensor([0, 1])
    as_new = torch.randn(2, model.items.shape[1])
    for one in (
        scale_of(model, known[:0], as_new[:0]),
        scale_of(model, known[:1], as_new[:1]),
        scale_of(model, known, as_new[:1].expand(2, -1)),
        scale_of(replace(model, users=torch.zeros_like(model.users)), known, as_new),
        scale_of(replace(model, users=model.users[:0]), known, as_new),
    ):
        assert one.factor == 1 and one.shift.isfinite().all()
    assert not scale_of(model, known[:0], as_new[:0]).shift.any()


@pytest.mark.parametrize("nearest", [0, 4])
@pytest.mark.parametrize("name", SYSTEMS)
def test_spread_of_the_scores_of_new_items(data, name, nearest):
    """The scores of every user keep their mean over the known items, and deviate from it as much as asked for."""
    _, model = model_of(data, name)
    known = described(data)
    features = {m: np.concatenate([x[known], x[COLD[-1:]]]) for m, x in data.features.items()}
    features["image"][-1] = 1  # the last item has one modality
    scores, narrow = (
        model.users.double() @ embed_items(model, features, nearest, spread).double().T for spread in (1, 0.25)
    )
    means = (model.users.double() @ model.items[known].double().mean(0))[:, None]
    atol = 1e-4 * float(scores.abs().amax())
    torch.testing.assert_close(narrow - means, 0.25 * (scores - means), rtol=1e-4, atol=atol)
    assert (scores - means).abs().amax() > 100 * atol
    torch.testing.assert_close(embed_items(model, features, nearest, 1.0), embed_items(model, features, nearest))
    more, rows = with_new_items(model, range(900, 901 + len(known)), features, nearest, 0.25), slice(70, None)
    torch.testing.assert_close(model.users.double() @ more.items[rows].double().T, narrow, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("spread", [-0.5, float("nan"), float("inf")])
def test_spread_that_is_none_is_refused(data, spread):
    _, model = model_of(data, "svd")
    features = {m: x[:1] for m, x in data.features.items()}
    with pytest.raises(InputError, match=r"spread = .*: must be a number from 0 on"):
        embed_items(model, features, spread=spread)
    with pytest.raises(InputError, match=r"spread = 0\.5: needs new items"):
        recommend(model, k=2, spread=0.5)


@pytest.mark.parametrize("spread", [1.0, 0.4])
@pytest.mark.parametrize("nearest", [0, 4])
@pytest.mark.parametrize("name", ["svd", "vbpr"])
def test_parts_of_the_score_of_a_new_item(data, name, nearest, spread):
    _, model = model_of(data, name)
    more = with_new_items(model, [900], {m: x[3:4] for m, x in data.features.items()}, nearest, spread)
    parts, user = Parts(Catalogue(more)), model.users[7]
    rows = np.array([3, COLD[0], 70])
    known, cold, new = parts.of(user, rows)
    np.testing.assert_allclose([sum(one) for one in (known, cold, new)], more.items[rows] @ user, rtol=1e-4, atol=1e-5)
    factor = spread * float(item_tower(model).factor)
    np.testing.assert_allclose(new[1:], [factor * part for part in known[1:]], rtol=1e-4, atol=1e-6)
    if not nearest:
        np.testing.assert_allclose(cold[0], new[0], rtol=1e-3, atol=1e-5)
