"""Inputs at the edge of what is possible: losses and gradients are finite, or the refusal says what is wrong."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from configurations import short
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import Dataset, synthetic, write_plain
from mmssl_trainer.embeddings import is_finite
from mmssl_trainer.errors import InputError, NonFiniteLoss
from mmssl_trainer.systems.mmssl import MMSSLSystem
from mmssl_trainer.training import state_file
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.loop import fit
from plain_systems import TRAINED

from mmssl_fast import InteractionGraph, sample_bpr
from mmssl_fast.nn import MMSSL, Discriminator, MMSSLObjective

USERS, ITEMS = 9, 12


def some(users=USERS, items=ITEMS):
    """A pattern in which everybody has something and nobody everything."""
    return (np.add.outer(np.arange(users), np.arange(items)) % 3 == 0).astype(np.float32)


def features(items=ITEMS, scale=1.0):
    return (np.random.default_rng(0).standard_normal((items, 5)) * scale).astype(np.float32)


def changed(array, rows, value):
    array = array.copy()
    array[rows] = value
    return array


# name: (interactions, features)
CATALOGUES = {
    "ordinary": (some(), features()),
    "a feature row of zeros": (some(), changed(features(), [0, 5], 0)),
    "no feature but zeros": (some(), np.zeros((ITEMS, 5), np.float32)),
    "users with no item": (changed(some(), [1, 4], 0), features()),
    "items with no user": (changed(some().T, [2, 7], 0).T, features()),
    "users with every item": (changed(some(), [0, 3], 1), features()),
    "one user": (some(1), features()),
    "one item": (changed(np.zeros((USERS, 1), np.float32), 0, 1), features(1)),
    "two items": (np.eye(USERS, 2, dtype=np.float32), features(2)),
    "the same row for every item": (some(), np.repeat(features(1), ITEMS, 0)),
    "the same items for every user": (np.repeat(some(1), USERS, 0), features()),
    "features of 1e20": (some(), features(scale=1e20)),
    "features of 1e-20": (some(), features(scale=1e-20)),
    "features of 1e-20 beside 1e20": (some(), changed(features(scale=1e20), [1, 2], 1e-20)),
    "one feature of 1e38": (some(), changed(features(), (3, 2), 1e38)),
}
SETTINGS = {
    "default": {},
    "raw": {"standardise": False},
    "raw, masked, without L2": {"standardise": False, "mask_seen": True, "row_l2": False},
    "masked": {"mask_seen": True, "exclude_self": True},
    "dot": {"kind": "dot"},
}
TEMPERATURES = [1e-3, 1e-2, 0.2, 1.0, 10.0]


def step(interactions, feats, users=None, **chosen):
    """One step of D and one of the encoder: {name: loss term or gradient}."""
    torch.manual_seed(0)
    graph = InteractionGraph.from_scipy(sp.csr_array(interactions))
    of_model = {name: chosen.pop(name) for name in ("standardise",) if name in chosen}
    model = MMSSL(
        graph, {"a": torch.from_numpy(feats), "b": torch.from_numpy(feats[:, :2])}, dim=8, heads=2, **of_model
    )
    discriminator = Discriminator(graph.n_items, hidden=(6, 4))
    objective = MMSSLObjective(model, discriminator, **chosen)
    count = graph.n_users if users is None else users
    ids = torch.arange(count) % graph.n_users
    pos, neg = (torch.arange(count) * way % graph.n_items for way in (1, 5))
    model.train()
    encoded = model()
    losses = objective.discriminator_terms(encoded, ids, 0)
    losses["total"].backward()
    found = {f"D {name}": term for name, term in losses.items()}
    losses = objective.generator_terms(encoded, ids, pos, neg)
    losses["total"].backward()
    found |= losses
    for part, module in (("discriminator", discriminator), ("model", model)):
        found |= {f"gradient of {part}.{name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found


def assert_finite(found):
    bad = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    assert len(found) > 10 and not bad, bad


# --- the step --------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("catalogue, setting", list(itertools.product(CATALOGUES, SETTINGS)))
def test_step_is_finite_or_refused(catalogue, setting):
    interactions, feats = CATALOGUES[catalogue]
    if interactions.shape[0] == 1:
        with pytest.raises(ValueError, match="BatchNorm needs at least 2 real rows"):
            step(interactions, feats, **SETTINGS[setting])
        interactions = np.repeat(interactions, 2, 0)
    assert_finite(step(interactions, feats, **SETTINGS[setting]))


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("which", ["gumbel_tau", "contrastive_tau"])
def test_temperatures(tau, which):
    assert_finite(step(some(), features(), **{which: tau}))


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_temperature_of_the_autoencoder(tau):
    torch.manual_seed(0)
    graph = InteractionGraph.from_scipy(sp.csr_array(some()))
    model = MMSSL(graph, {"a": torch.from_numpy(features())}, dim=8, heads=2)
    objective = MMSSLObjective(model, None, adversarial=False, autoencoder=True, autoencoder_tau=tau)
    losses = objective.generator_terms(model(), *sample_bpr(graph, 6, 0))
    losses["total"].backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert all(tensor.isfinite().all() for tensor in (losses | gradients).values())


@pytest.mark.parametrize("zeta, noise", [(0.0, 0.0), (150.0, 1.0), (1e6, 0.0), (0.0, 1e3)])
def test_scales_of_real_rows(zeta, noise):
    assert_finite(step(some(), features(), zeta=zeta, noise_scale=noise))


def test_batch_larger_than_the_users():
    assert_finite(step(some(), features(), users=5 * USERS))


# --- the trainer -----------------------------------------------------------------------------------------------------
def configured(**values):
    return short(defaults={"model.hidden": [6, 4], "evaluate.ks": [10, 20, 50]} | values)


def dataset(interactions, feats):
    held = sp.csr_array(np.roll(interactions, 1, 1) * (interactions == 0))
    return Dataset("edge", "made", *interactions.shape, sp.csr_array(interactions), held, held, {"a": feats})


REFUSED = {"one item": "no negative"}


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("over", ["interactions", "users"])
@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_run_is_finite_or_refused(catalogue, over):
    data, config = dataset(*CATALOGUES[catalogue]), configured(**{"train.sample_over": over})
    refused = "needs at least 2" if (catalogue, over) == ("one user", "users") else REFUSED.get(catalogue)
    if refused:
        with pytest.raises(InputError, match=refused):
            fit(data, config)
        return
    fitted = fit(data, config)
    assert all(np.isfinite(value) for record in fitted.epochs for value in record["losses"].values())
    assert fitted.users.isfinite().all() and fitted.items.isfinite().all()


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("system", sorted({*TRAINED} - {"mmssl"}))
def test_other_systems_are_finite_or_refused(system):
    """Every catalogue; features of 1e20 may overflow where they are taken as they are, and then the run says so."""
    config = configured(**{"model.system": system, "model.standardise": False})
    for name, catalogue in CATALOGUES.items():
        refused = REFUSED.get(name)
        try:
            fitted = fit(dataset(*catalogue), config)
        except (InputError, NonFiniteLoss) as error:
            assert refused in str(error) if refused else "1e" in name and "in epoch" in str(error), (name, error)
            continue
        assert not refused, name
        assert all(np.isfinite(value) for record in fitted.epochs for value in record["losses"].values()), name
        assert fitted.users.isfinite().all() and fitted.items.isfinite().all(), name


def test_svd_is_finite_or_refuses_the_rank():
    """Every catalogue, also those that nothing can be sampled of: it draws no negatives."""
    refused = set()
    for name, catalogue in CATALOGUES.items():
        data = dataset(*catalogue)
        try:
            fitted = fit(data, configured(**{"model.system": "svd"}))
        except InputError as error:
            assert min(data.train.shape) <= 8 and "model.dim = 8" in str(error), (name, error)
            refused.add(name)
            continue
        assert fitted.users.isfinite().all() and fitted.items.isfinite().all(), name
    assert refused and len(refused) < len(CATALOGUES)


@pytest.mark.parametrize("system", ["ease", "itemknn", "userknn"])
def test_closed_forms_are_finite(system):
    """Every catalogue, with and without features."""
    for name, catalogue in CATALOGUES.items():
        for content in (0.0, 1.0)[: 1 if system == "userknn" else 2]:
            chosen = {"model.system": system} | ({f"{system}.content": content} if content else {})
            try:
                fitted = fit(dataset(*catalogue), configured(**chosen))
            except InputError as error:
                assert content and "features" in str(error), (name, error)
                continue
            assert is_finite(fitted.users) and is_finite(fitted.items), name


def test_what_overflows_is_refused_by_name():
    """Dot products of raw features of 1e20 are beyond float32: the loss says so, whatever comes after it."""
    data = dataset(some(), features(scale=1e20))
    config = configured(**{"model.standardise": False, "loss.kind": "dot", "loss.row_l2": False})
    with pytest.raises(NonFiniteLoss, match=r"(loss term '.*'|embeddings|parameter) became .* in epoch \d"):
        fit(data, config)


# --- the last good state ---------------------------------------------------------------------------------------------
class Poisoned(MMSSLSystem):
    """Its parameters become NaN in one step, after the losses of that step."""

    def __init__(self, at):
        self.at = at

    def step(self, batch):
        terms = super().step(batch)
        if batch.step == self.at:
            with torch.no_grad():
                self.model.item_embedding[0] = torch.nan
        return terms


def test_non_finite_loss_keeps_the_state_before_it(tmp_path):
    """The term, the epoch and the step are named; going on from the state gives the run without the fault."""
    data = synthetic(seed=1, n_users=60, n_items=40, modalities={"image": 8})
    config = configured(**{"train.checkpoint_every": 1, "train.epochs": 3})
    steps = data.train.nnz // 64 + 1
    whole = fit(data, config)
    with pytest.raises(NonFiniteLoss, match=rf"loss term '.*' became nan in epoch 2, step 3 of {steps}"):
        fit(data, config, system=Poisoned(steps + 1), checkpoints=Checkpoints(tmp_path, data, config))
    checkpoints = Checkpoints(tmp_path, data, config)
    assert checkpoints.open() and checkpoints.last == "after epoch 1"
    fitted = fit(data, config, checkpoints=checkpoints)
    assert torch.equal(fitted.users, whole.users) and torch.equal(fitted.items, whole.items)


def test_embeddings_that_are_not_finite_are_no_best_model():
    data = synthetic(seed=1, n_users=60, n_items=40, modalities={"image": 8})
    last = data.train.nnz // 64
    with pytest.raises(NonFiniteLoss, match=r"(user|item) embeddings became non-finite in epoch 1"):
        fit(data, configured(), system=Poisoned(last))


def test_command_names_the_state_that_is_kept(tmp_path, monkeypatch, capsys):
    data = write_plain(synthetic(seed=1, n_users=60, n_items=40, modalities={"image": 8}), tmp_path / "data")
    monkeypatch.setattr("mmssl_trainer.training.loop.create", lambda name: Poisoned(12))
    run = tmp_path / "run"
    arguments = ["--batch", "64", "--threads", "1", "--epochs", "9", "--set", "model.dim=8"]
    every = ["--set", "train.checkpoint_every=1", "--set", "train.sample_over=interactions"]
    assert main(["train", "--data", str(data), "--out", str(run), *arguments, *every]) == 1
    said = capsys.readouterr().err
    *epochs, last = said.splitlines()
    assert all(line.startswith(("note: features: row 0 ", "MMSSL epoch ")) for line in epochs)
    assert "epoch" in last and "the last checkpoint" in last and str(run / "state") in last
    state_file.read(state_file.newest(run / "state"))
