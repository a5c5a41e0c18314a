"""Items of which a modality is missing: what is masked in each system, against values computed here."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmssl_trainer import InputError, embed_items, fold_in, recommend
from mmssl_trainer.data import synthetic
from mmssl_trainer.data.dataset import build
from mmssl_trainer.inference.new_items import embed_both, with_new_items
from mmssl_trainer.systems import SYSTEMS
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.systems.ease import EASESystem
from mmssl_trainer.systems.inference import Scaling
from plain_systems import configured
from trained_models import histories, trained, written

from mmssl_fast import InteractionGraph
from mmssl_fast.nn import MMSSL
from mmssl_fast.nn.features import standardised

WARM, WARM_WITHOUT, COLD, COLD_WITHOUT = 4, 7, 9, 18  # the first of each has texts, the second nothing
WITH_ITEMS = ("mmssl", "vbpr", "lightgcn_m", "mmgcn", "grcn", "mmgcl", "slmrec", "clcrec", "svd")


@pytest.fixture(scope="module")
def data():
    """Every ninth item is cold."""
    whole = synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)
    for name, rows in (("image", [WARM, WARM_WITHOUT, COLD, COLD_WITHOUT]), ("text", [WARM_WITHOUT, COLD_WITHOUT, 30])):
        whole.features[name][:] += 3  # a common part, so that 0 is no usual value
        whole.features[name][rows] = np.nan
    pairs = {name: getattr(whole, name).nonzero() for name in ("train", "val", "test")}
    kept = pairs["train"][1] % 9 != 0
    pairs["train"] = tuple(side[kept] for side in pairs["train"])
    return build("made", "made", (90, 70), pairs, whole.features)


def present(data, name):
    return ~np.isnan(data.features[name][:, 0])


def test_mean_and_deviation_are_those_of_the_rows_that_are_there(data):
    raw = data.features["image"].astype(np.float64)
    there = present(data, "image")
    expected = (raw - raw[there].mean(0)) / raw[there].std(0)
    expected[~there] = 0
    found = standardised(torch.from_numpy(data.features["image"]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    scaling = Scaling.of(data.features, True)
    np.testing.assert_allclose(scaling("image", torch.from_numpy(data.features["image"])), expected, atol=1e-5)


VALUES = {"svd": {"svd__content": 0.5}}


@pytest.mark.parametrize("name", WITH_ITEMS)
def test_a_cold_item_is_embedded_by_the_modalities_that_it_has(data, tmp_path, name):
    """And one without any is 0, so that it is ranked last: nothing is known about it."""
    system, model = trained(data, name, **VALUES.get(name, {}))
    assert model.users.isfinite().all() and model.items.isfinite().all()
    cold = system.cold_items()
    assert not cold[COLD_WITHOUT].any() and not cold[WARM_WITHOUT].any() and cold[COLD].any()
    some = {modality: values[[COLD, 30, 20]] for modality, values in data.features.items()}
    found = embed_both(written(model, tmp_path), some)[1]
    torch.testing.assert_close(found, cold[[COLD, 30, 20]], rtol=1e-5, atol=1e-6)
    # The missing features have no other value in their place: another one gives another embedding.
    filled = {modality: np.nan_to_num(values, nan=3.0) for modality, values in some.items()}
    other = embed_both(model, filled)[1]
    assert not torch.allclose(other[:2], found[:2], atol=1e-5) and torch.allclose(other[2], found[2])
    nothing = {modality: values[[20, COLD_WITHOUT]] for modality, values in data.features.items()}
    with pytest.raises(InputError, match=r"row 1 has none in any modality \(image, text\); leave the item out"):
        embed_items(model, nothing)
    with pytest.raises(InputError, match="the item 'b' has none in any modality"):
        with_new_items(model, ["a", "b"], nothing)
    if name == "mmssl":
        last = recommend(model, users=[3], k=70 - len(data.train[[3]].indices)).item[-1]
        assert last == COLD_WITHOUT


def test_the_length_of_a_cold_item_of_mmssl_does_not_depend_on_how_many_modalities_it_has(data, tmp_path):
    system, model = trained(data, "mmssl")
    model = written(model, tmp_path)
    unit = torch.nn.functional.normalize(model.content[:, 8:].float())
    omega = 0.1
    torch.testing.assert_close(system.cold_items()[COLD], 2 * omega * unit[COLD])
    both = system.cold_items()[20]
    torch.testing.assert_close(both, omega * (unit[20] + torch.nn.functional.normalize(model.content[20, :8], dim=0)))


@pytest.mark.parametrize("name", WITH_ITEMS)
def test_the_content_of_an_item_without_features_is_zero(data, tmp_path, name):
    model = written(trained(data, name, **VALUES.get(name, {}))[1], tmp_path)
    assert not model.content[[WARM_WITHOUT, COLD_WITHOUT]].any() and model.content[[WARM, COLD, 30]].any(1).all()


@pytest.mark.parametrize("name", [name for name in WITH_ITEMS if name not in ("vbpr", "clcrec", "grcn")])
def test_history_with_items_without_features(data, name):
    _, model = trained(data, name, **VALUES.get(name, {}))
    some = [user for user in range(90) if data.train[[user]].nnz]
    found = fold_in(model, histories(data, some))
    torch.testing.assert_close(found, model.users[some], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", sorted(set(SYSTEMS) - {"mmssl"}))
def test_every_system_trains_with_missing_features(data, name):
    values = {f"{name}__content": 0.5} if name in ("svd", "ease", "itemknn") else {}
    _, model = trained(data, name, **values)
    for table in (model.users, model.items):
        values = table if isinstance(table, torch.Tensor) else torch.from_numpy(table.data)
        assert values.isfinite().all()


@pytest.mark.parametrize("norm", ["receiver", "both", "none"])
def test_mmssl_leaves_missing_items_out_of_equation_2(data, norm):
    graph = InteractionGraph.from_scipy(data.train)
    features = {name: torch.from_numpy(values) for name, values in data.features.items()}
    model = MMSSL(graph, features, dim=8, neighbours=3, norm=norm).double().eval()
    torch.nn.init.normal_(model.projections[0].bias)
    x = torch.from_numpy(data.train.toarray()).double()
    by_user, by_item = x.sum(1).clamp(min=1), x.sum(0).clamp(min=1)
    weights = {"receiver": x / by_user[:, None] ** 0.5, "both": x / (by_user[:, None] * by_item) ** 0.5, "none": x}
    a = weights[norm]
    there = torch.from_numpy(present(data, "image")).double()
    own = model.projections[0](model.features_0) * there[:, None]
    share = (a * there).sum(1) / a.sum(1)  # the weight of the items that are there
    users = torch.where(share[:, None] > 0, (a @ own) / share[:, None], 0)
    found_users, found_items = (side[0] for side in model.modality_features())
    torch.testing.assert_close(found_users, users, rtol=1e-6, atol=1e-8)
    assert (found_items[WARM] != 0).any()  # from its users
    assert share.min() < 1


def test_a_user_without_described_items_has_no_semantic_neighbours():
    graph = InteractionGraph.from_pairs([0, 1, 1], [0, 1, 2], n_users=2, n_items=4)
    features = {"image": torch.randn(4, 5), "text": torch.randn(4, 5)}
    features["image"][0] = torch.nan
    model = MMSSL(graph, features, dim=4, heads=2, neighbours=2)
    model.refresh_neighbours()
    assert (model.semantic_neighbours[0, 0] == -1).all() and (model.semantic_neighbours[1, 0] >= 0).all()
    assert (model.semantic_neighbours[0, 1] >= 0).all()
    encoded = model()
    assert not encoded.modal_users[0][0].any() and encoded.users.isfinite().all()
    encoded.users.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def units(data):
    for name, raw in data.features.items():
        there = present(data, name)
        values = raw.astype(np.float64)
        values = (values - values[there].mean(0)) / values[there].std(0)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        yield there, np.where(there[:, None], values, 0)


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_ease_leaves_missing_features_out_of_the_error_of_an_item(data, tau):
    weight, penalty = 2.0, 30.0
    settings = {"ease.content": weight, "ease.content_tau": tau, "ease.penalty": penalty}
    system = EASESystem()
    system.build(data, InteractionGraph.from_scipy(data.train), configured("ease", **settings))
    x, n = data.train.toarray().astype(np.float64), data.n_items
    kernels = []
    for there, unit in units(data):
        products = unit @ unit.T
        kernels.append(weight * (np.exp((products - 1) / tau) * there * there[:, None] if tau else products))
    marks = np.stack([there for there, _ in units(data)], 1)
    cold_columns = np.zeros((n, n))
    expected = np.zeros((n, n))
    for item in range(n):
        others = np.arange(n) != item
        content = sum((kernels[m] for m in range(2) if marks[item, m]), np.zeros((n, n)))
        for target, gram in ((expected, x.T @ x), (cold_columns, x.T @ np.diag([1.0] * len(x)) @ x)):
            gram = gram.copy()
            if target is cold_columns:
                gram[item] = gram[:, item] = 0
            whole = gram + content + penalty * np.eye(n)
            # Ridge regression of the item on the others.
            target[others, item] = np.linalg.solve(whole[np.ix_(others, others)], (gram + content)[others, item])
    np.testing.assert_allclose(x @ system.items.numpy().T, x @ expected, atol=2e-4)
    np.testing.assert_allclose(system.cold_items(), cold_columns.T, atol=2e-5)
    assert not system.cold_items()[COLD_WITHOUT].any()


def test_svd_gives_a_missing_item_the_mean_score_of_the_modality(data):
    content = 0.7
    _, model = trained(data, "svd", svd__content=content)
    users, items = model.users.double().numpy(), model.items.double().numpy()
    x = data.train.toarray().astype(np.float64)
    first = 8
    for there, unit in units(data):
        block = slice(first, first := first + unit.shape[1])
        scores = users[:, block] @ items[:, block].T
        profiles = x @ unit / np.maximum(x @ there, 1)[:, None]
        raw = profiles @ unit[there].T
        np.testing.assert_allclose(scores[:, there], content * raw / raw.std(1, keepdims=True), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            scores[:, ~there], scores[:, there].mean(1, keepdims=True).repeat((~there).sum(), 1), atol=1e-5
        )


def test_items_without_features_are_no_anchors_of_clcrec(data):
    system, _ = trained(data, "clcrec")
    positives = torch.tensor([1, WARM_WITHOUT, WARM, 5])
    batch = Batch(torch.arange(4), positives, torch.tensor([2, 3, 11, 12]), 0)
    described = Batch(*(side[[0, 2, 3]] for side in batch[:3]), 0)
    found, expected = (system.model.terms(one)["contrastive"] for one in (batch, described))
    torch.testing.assert_close(found, expected)
    system.model.present = None
    assert not torch.allclose(system.model.terms(batch)["contrastive"], expected)


def test_clcrec_represents_an_item_without_features_by_its_embedding_alone(data):
    """With share = 1, every other item is represented by its features."""
    system, _ = trained(data, "clcrec", clcrec__share=1.0)
    assert not system.model.encoded()[[WARM_WITHOUT, COLD_WITHOUT]].any()
    with torch.no_grad():
        torch.nn.init.normal_(system.model.users)
    batch = Batch(torch.arange(2), torch.tensor([1, WARM_WITHOUT]), torch.tensor([2, 3]), 0)
    (gradient,) = torch.autograd.grad(system.model.terms(batch)["ranking"], system.model.items)
    assert gradient.any(1).nonzero().flatten().tolist() == [WARM_WITHOUT]


def test_clcrec_without_any_described_positive(data):
    features = {name: values.copy() for name, values in data.features.items()}
    warm = np.flatnonzero(data.train.sum(axis=0))
    for values in features.values():
        values[warm] = np.nan
    _, model = trained(replace(data, features=features), "clcrec")
    assert model.items.isfinite().all()
