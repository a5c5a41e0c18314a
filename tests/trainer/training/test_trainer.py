"""MMSSL and LightGCN in training: terms, gradients, what is learnt, and extreme data."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import systems
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.training.loop import fit
from training_cases import Recorder, configured, small_catalogue

from mmssl_fast.graph import InteractionGraph


@pytest.fixture(scope="module")
def data():
    return small_catalogue()


# --- systems ---------------------------------------------------------------------------------------------------------
def test_popularity_ranks_by_count(data):
    fitted = fit(data, configured("popularity"))
    counts = torch.from_numpy(data.train.sum(axis=0))
    assert torch.equal(fitted.items.flatten(), counts.to(torch.float32))
    assert not fitted.epochs and fitted.val["users"] > 0 and fitted.best == fitted.val["recall@20"]


def test_lightgcn_learns(data):
    """Well above popularity on held-out items, and its loss falls."""
    recorder = Recorder()
    fitted = fit(data, configured(train__epochs=15, optimiser__lr=0.02), recorder)
    popular = fit(data, configured("popularity"))
    assert fitted.best > 1.15 * popular.best
    assert recorder.records[-1]["losses"]["bpr"] < 0.8 * recorder.records[0]["losses"]["bpr"]


def test_lightgcn_gradient_matches_definition(data):
    """One step's gradient equals that of BPR over a dense, two-sided normalised propagation written out."""

    config = configured(model__layers=2)
    torch.manual_seed(3)
    system = systems.create("lightgcn")
    graph = InteractionGraph.from_scipy(data.train)
    system.build(data, graph, config)
    users, items = (one.detach().clone().double().requires_grad_() for one in (system.model.users, system.model.items))
    dense = torch.from_numpy(data.train.toarray()).double()
    scale = [dense.sum(axis).clamp(min=1).rsqrt() for axis in (1, 0)]
    adjacency = scale[0][:, None] * dense * scale[1]
    layers = [(users, items)]
    for _ in range(2):
        layers.append((adjacency @ layers[-1][1], adjacency.T @ layers[-1][0]))
    u, v = (sum(layer[side] for layer in layers) / 3 for side in (0, 1))
    batch = Batch(torch.tensor([0, 5, 9, 0]), torch.tensor([1, 2, 3, 4]), torch.tensor([7, 8, 2, 4]), 0)
    score = (u[batch.users] * (v[batch.positives] - v[batch.negatives])).sum(1)
    loss = -torch.nn.functional.logsigmoid(score).mean()
    loss.backward()
    assert system.step(batch)["bpr"].item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(system.model.users.grad.double(), users.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(system.model.items.grad.double(), items.grad, rtol=1e-4, atol=1e-7)


# --- MMSSL -----------------------------------------------------------------------------------------------------------
GENERATOR = {"bpr", "l2", "contrastive", "generator", "total"}
D = {"D real", "D fake", "D penalty", "D total"}


@pytest.mark.parametrize(
    "switches, terms",
    [
        ({}, GENERATOR | D),
        ({"loss__adversarial": False}, GENERATOR - {"generator"}),
        ({"loss__contrastive": False}, (GENERATOR | D) - {"contrastive"}),
        ({"loss__gumbel": False}, GENERATOR | D),
        ({"loss__structural": True}, GENERATOR | D | {"structural"}),
        ({"loss__adversarial": False, "loss__autoencoder": True}, (GENERATOR | {"autoencoder"}) - {"generator"}),
        ({"loss__lambda_features": 1e-5, "loss__lambda_l2": 0.0}, (GENERATOR | D | {"features"}) - {"l2"}),
        ({"loss__contrastive": False, "model__neighbours": 0}, (GENERATOR | D) - {"contrastive"}),
    ],
)
def test_mmssl_terms_of_every_variant(data, switches, terms):
    fitted = fit(data, configured("mmssl", train__epochs=2, **switches))
    assert set(fitted.epochs[0]["losses"]) == terms
    assert all(np.isfinite(value) for record in fitted.epochs for value in record["losses"].values())
    assert fitted.users.isfinite().all() and fitted.items.isfinite().all()


def test_mmssl_learns(data):
    fitted = fit(data, configured("mmssl", train__epochs=8))
    popular = fit(data, configured("popularity"))
    assert fitted.best > 1.3 * popular.best
    assert fitted.epochs[-1]["losses"]["bpr"] < 0.7 * fitted.epochs[0]["losses"]["bpr"]


def test_mmssl_every_parameter_is_trained(data):
    """Every optimiser holds parameters of its own side only, and a step moves all of them."""
    system = systems.create("mmssl")
    torch.manual_seed(0)
    graph = InteractionGraph.from_scipy(data.train)
    system.build(data, graph, configured("mmssl", loss__lambda_generator=1.0))
    sides = {("adamw",): system.model, ("adam", "first_layer"): system.discriminator}
    held = {
        names: [id(p) for name in names for group in system.optimisers[name].param_groups for p in group["params"]]
        for names in sides
    }
    before = {name: [p.detach().clone() for p in side.parameters()] for name, side in sides.items()}
    system.start_epoch(1)
    triples = torch.arange(60), torch.arange(60) % data.n_items, (torch.arange(60) + 9) % data.n_items
    system.step(Batch(*triples, 0))
    for name, side in sides.items():
        assert sorted(held[name]) == sorted(id(p) for p in side.parameters())
        moved = [not torch.equal(p, old) for p, old in zip(side.parameters(), before[name], strict=True)]
        assert all(moved), (name, moved)


def test_mmssl_same_seed_same_bits(data):
    runs = [fit(data, configured("mmssl", train__epochs=2, train__seed=seed)) for seed in (3, 3, 4)]
    assert torch.equal(runs[0].users, runs[1].users) and not torch.equal(runs[0].users, runs[2].users)
    assert runs[0].epochs[1]["losses"] == runs[1].epochs[1]["losses"]


def test_discriminator_steps_draw_noise_of_their_own(data, monkeypatch):
    seen = []
    system = systems.create("mmssl")
    graph = InteractionGraph.from_scipy(data.train)
    system.build(data, graph, configured("mmssl", train__discriminator_steps=3))
    original = system.objective.discriminator_terms

    def watched(encoded, users, offset):
        seen.append(offset)
        return original(encoded, users, offset)

    monkeypatch.setattr(system.objective, "discriminator_terms", watched)
    for step in (0, 1):
        system.step(Batch(torch.arange(30), torch.arange(30), torch.arange(30) + 10, step))
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("every, expected", [(1, [2, 3, 4, 5]), (2, [3, 5]), (9, [])])
def test_neighbours_are_refreshed_by_period(data, monkeypatch, every, expected):
    system = systems.create("mmssl")
    system.build(data, InteractionGraph.from_scipy(data.train), configured("mmssl", train__refresh_every=every))
    refreshed = []
    monkeypatch.setattr(system.model, "refresh_neighbours", lambda: refreshed.append(epoch))
    for epoch in range(1, 6):
        system.start_epoch(epoch)
    assert refreshed == expected


def test_evaluation_has_no_dropout(data):
    system = systems.create("mmssl")
    system.build(data, InteractionGraph.from_scipy(data.train), configured("mmssl", model__dropout=0.5))
    system.start_epoch(1)
    first, second = system.embeddings(), system.embeddings()
    assert torch.equal(first[0], second[0]) and system.model.training and not first[0].requires_grad


def test_mmssl_without_features(data):
    with pytest.raises(InputError, match="needs features"):
        fit(Dataset(**{**vars(data), "features": {}}), configured("mmssl"))


def test_users_and_items_without_interactions_train_through(data):
    train = data.train.toarray()
    train[[0, 7]], train[:, [3, 50]] = 0, 0
    sparse = Dataset(**{**vars(data), "train": sp.csr_array(train)})
    fitted = fit(sparse, configured("mmssl", train__epochs=2))
    assert fitted.users.isfinite().all() and fitted.items.isfinite().all() and fitted.val["users"] > 0


def made(train, features=None):
    """A dataset of these training pairs, each user's next item held out for validation and test."""
    train = np.array(train, np.float32)
    held = sp.csr_array(np.roll(train, 1, 1) * (train == 0))
    default = {"a": np.random.default_rng(0).standard_normal((train.shape[1], 3)).astype(np.float32)}
    return Dataset("edge", "made", *train.shape, sp.csr_array(train), held, held, features or default)


def column(values, dtype=np.float32):
    return {"a": np.outer(values, [1.0, -2.0]).astype(dtype)}


@pytest.mark.parametrize(
    "dataset, values",
    [
        (made([[1, 0], [0, 1]]), {}),
        (made([[1, 0, 0]]), {}),
        (made([[1, 0, 0], [0, 0, 0], [1, 1, 1]]), {}),
        (made(np.eye(6), column(np.zeros(6))), {}),
        (made(np.eye(6), column(1e20 * np.arange(1, 7))), {}),
        (made(np.eye(6), column(1e-20 * np.arange(1, 7))), {}),
        (made(np.eye(6), column(np.arange(6), np.float16)), {}),
        (made(np.eye(6)), {"model__neighbours": 128, "model__exclude_seen_neighbours": True}),
        (made(np.eye(6)), {"loss__gumbel_tau": 1e-3, "loss__contrastive_tau": 1e-3}),
        (made(np.eye(6)), {"loss__gumbel_tau": 10.0, "loss__contrastive_tau": 10.0}),
        (made(np.eye(6)), {"loss__noise_scale": 0.0, "loss__zeta": 0.0, "model__layers": 0}),
        (made(np.eye(6)), {"model__dim": 1, "model__heads": 1, "model__hidden": [1, 1]}),
        (made(np.eye(6)), {"train__batch": 1, "loss__adversarial": False}),
        (made(np.eye(6)), {"train__sample_over": "users", "train__seed": 2**63 - 1}),
    ],
)
def test_extremes_stay_finite(dataset, values):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="sample_bpr: 1 of 3 users have every item")
        fitted = fit(dataset, configured("mmssl", **({"train__epochs": 2} | values)))
    assert all(np.isfinite(value) for record in fitted.epochs for value in record["losses"].values())
    assert fitted.users.isfinite().all() and fitted.items.isfinite().all()


@pytest.mark.parametrize(
    "train, values", [(np.eye(6), {"train__batch": 1}), ([[1, 0, 0]], {"train__sample_over": "users"})]
)
def test_batch_of_one_has_nothing_to_normalise_over(train, values):
    with pytest.raises(InputError, match=r"train\.batch = 1 .* needs at least 2"):
        fit(made(train), configured("mmssl", **values))
