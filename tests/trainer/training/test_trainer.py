"""The training loop and the run folder: what is learnt, kept, written, refused."""

import json
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import systems
from mmssl_trainer.config.load import load
from mmssl_trainer.config.toml import to_toml
from mmssl_trainer.data import Dataset, synthetic
from mmssl_trainer.errors import InputError, NonFiniteLoss
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs import folder as run_folder
from mmssl_trainer.runs import saved_model
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.training.loop import fit, pick_device
from mmssl_trainer.training.progress import LossTable, NullObserver

from mmssl_fast.graph import InteractionGraph


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=120, n_items=80, modalities={"image": 8, "text": 6})


def configured(system="lightgcn", **values):
    chosen = {
        "model.system": system,
        "model.dim": 16,
        "train.epochs": 3,
        "train.batch": 128,
        "train.threads": 1,
        "train.sample_over": "interactions",
        "evaluate.ks": [5, 20],
    }
    chosen |= {name.replace("__", "."): value for name, value in values.items()}
    return load(None, {name: (value, "test") for name, value in chosen.items()})


class Recorder(NullObserver):
    def __init__(self):
        self.steps, self.records, self.bests = [], [], []

    def stepped(self, epoch, step, losses):
        self.steps.append((epoch, step, losses))

    def epoch_ended(self, record):
        self.records.append(record)

    def improved(self, fitted):
        self.bests.append((fitted.best_epoch, fitted.best))


class Scripted:
    """A system whose validation Recall@20 follows a script: it puts the held-out item first for a share of users."""

    trains, least_batch = True, 1

    def __init__(self, shares, bad_step=None):
        self.shares, self.bad_step, self.optimisers, self.epoch = shares, bad_step, {}, 0

    def build(self, dataset, graph, config):
        self.wanted = torch.from_numpy(dataset.val.toarray())
        self.device = graph.device

    def start_epoch(self, epoch):
        self.epoch = epoch

    def step(self, batch):
        bad = self.bad_step == batch.step
        return {"fine": torch.tensor(1.0), "broken": torch.tensor(float("nan") if bad else 2.0)}

    def embeddings(self):
        share = self.shares[self.epoch - 1] if self.epoch else 0.0
        rows = self.wanted.shape[0]
        right = (torch.arange(rows) < share * rows)[:, None]
        return torch.where(right, self.wanted, -self.wanted), torch.eye(self.wanted.shape[1])

    def parameters(self):
        return {"epoch": torch.tensor(float(self.epoch))}

    def state(self):
        return {}


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


# --- the loop --------------------------------------------------------------------------------------------------------
def test_steps_of_an_epoch(data):
    recorder = Recorder()
    fit(data, configured(train__epochs=2), recorder)
    steps = data.train.nnz // 128 + 1
    assert [(epoch, step) for epoch, step, _ in recorder.steps] == [(e, s) for e in (1, 2) for s in range(1, steps + 1)]
    assert recorder.steps[-1][2] is not None


def test_same_seed_same_bits(data):
    asked = [(5, "interactions"), (5, "interactions"), (6, "interactions"), (5, "users")]
    runs = [fit(data, configured(train__seed=seed, train__sample_over=over)) for seed, over in asked]
    assert torch.equal(runs[0].users, runs[1].users) and torch.equal(runs[0].items, runs[1].items)
    assert not torch.equal(runs[0].users, runs[2].users) and not torch.equal(runs[0].users, runs[3].users)


def test_best_model_is_kept_and_patience_ends(data):
    recorder = Recorder()
    shares = [0.2, 0.6, 0.5, 0.6, 0.4, 0.9, 0.9]
    fitted = fit(data, configured(train__epochs=7, train__patience=3), recorder, Scripted(shares))
    assert [record["epoch"] for record in recorder.records] == [1, 2, 3, 4, 5]  # an equal 0.6 is no improvement
    assert [epoch for epoch, _ in recorder.bests] == [1, 2]
    assert fitted.best_epoch == 2 and fitted.parameters["epoch"] == 2.0 and fitted.stale == 3
    assert fitted.val["recall@20"] == fitted.best == recorder.records[1]["val"]["recall@20"]
    assert split_metrics(fitted.users, fitted.items, data, "val", [20])["recall@20"] == fitted.best


def test_patience_zero_never_stops(data):
    fitted = fit(data, configured(train__epochs=5, train__patience=0), None, Scripted([0.5, 0.4, 0.3, 0.2, 0.1]))
    assert len(fitted.epochs) == 5 and fitted.best_epoch == 1


def test_validation_period(data):
    fitted = fit(data, configured(train__epochs=5, train__validate_every=2), None, Scripted([0.1, 0.2, 0.9, 0.3, 0.4]))
    assert [record["epoch"] for record in fitted.epochs if "val" in record] == [2, 4, 5]
    assert fitted.best_epoch == 5


def test_without_validation_the_last_epoch_is_kept(data):
    bare = Dataset(**{**vars(data), "val": sp.csr_array(data.val.shape, dtype=np.float32)})
    fitted = fit(bare, configured(train__epochs=3, train__patience=1), None, Scripted([0.3, 0.2, 0.1]))
    assert fitted.best_epoch == 3 and len(fitted.epochs) == 3


def test_non_finite_loss_names_term_epoch_step(data):
    """The step is named exactly, although losses are looked at only now and then."""
    steps = data.train.nnz // 128 + 1
    with pytest.raises(NonFiniteLoss, match=rf"'broken' became nan in epoch 2, step 3 of {steps}"):
        fit(data, configured(train__epochs=4), None, Scripted([0.5] * 4, bad_step=steps + 2))


def test_exploding_system_stops(data):
    with pytest.raises(NonFiniteLoss, match="bpr"):
        fit(data, configured(train__epochs=5, optimiser__lr=1e30))


def test_loss_table_means():
    table = LossTable(3, torch.device("cpu"))
    for value in (1.0, 2.0):
        table.add({"a": torch.tensor(value), "b": torch.tensor(10 * value)})
    assert table.means() == {"a": 1.5, "b": 15.0} and table.check(1) == {"a": 2.0, "b": 20.0}
    table.add({"a": torch.tensor(0.0), "b": torch.tensor(float("inf"))})
    with pytest.raises(NonFiniteLoss, match="'b' became inf in epoch 7, step 3 of 3"):
        table.check(7)
    with pytest.raises(ValueError, match="terms"):
        table.add({"a": torch.tensor(1.0)})


def test_users_who_have_everything(data):
    full = sp.csr_array(np.ones((2, 3), np.float32))
    empty = sp.csr_array((2, 3), dtype=np.float32)
    everything = Dataset("full", "made", 2, 3, full, empty, empty, {})
    with pytest.raises(InputError, match="no negatives"):
        fit(everything, configured())


def test_device_that_is_not_there():
    with pytest.raises(InputError, match="'gpu7' cannot be used"):
        pick_device("gpu7")


def test_device_without_kernels():
    with pytest.raises(InputError, match=r"'meta': this build has no kernel for .*propagate"):
        pick_device("meta")


# --- run folder ------------------------------------------------------------------------------------------------------
def run(path, data, config, **kwargs):
    folder = run_folder.RunFolder(path, data, config, **kwargs)
    fitted = fit(data, config, folder)
    folder.finish(fitted, split_metrics(fitted.users, fitted.items, data, "test", config.evaluate.ks))
    return fitted


def test_run_folder_holds_what_is_promised(data, tmp_path):
    config = configured()
    fitted = run(tmp_path / "a" / "run", data, config)
    path = tmp_path / "a" / "run"
    assert {one.name for one in path.iterdir()} == set(run_folder.FILES) - {"baselines.json"}
    assert load(path / "config.toml") == config
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["seconds"] > 0 and line["peak_memory_bytes"] > 1e6
        assert "bpr" in line["losses"] and "ndcg@20" in line["val"]
    result = json.loads((path / "result.json").read_text())
    assert set(result) == {"test", "val", "best_epoch", "seconds_per_epoch", "seed", "versions", "data"}
    assert {"recall@20", "precision@20", "ndcg@20", "hit@20", "mrr@20", "recall@5"} <= set(result["test"])
    assert result["val"] == fitted.val and result["data"]["fingerprint"] == data.fingerprint
    assert result["versions"]["torch"] == torch.__version__
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG") and (path / "curves.png").stat().st_size > 5000


def test_saved_model_reads_back(data, tmp_path):
    users = np.array([f"u,{n}ä" for n in range(data.n_users)], dtype=object)
    named = Dataset(**{**vars(data), "user_ids": users, "item_ids": np.arange(data.n_items) * 7 - 3})
    fitted = run(tmp_path / "run", named, configured())
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        model = saved_model.load(path)
        assert torch.equal(model.users, fitted.users) and torch.equal(model.items, fitted.items)
        assert model.parameters.keys() == fitted.parameters.keys()
        assert model.interactions.user_ids.tolist() == users.tolist()
        assert model.interactions.item_ids.tolist() == named.item_ids.tolist()
        for split in ("train", "val", "test"):
            assert (getattr(model.interactions, split) != getattr(named, split)).nnz == 0
        assert model.interactions.fingerprint == named.fingerprint and model.metadata["system"] == "lightgcn"


@pytest.mark.parametrize("damage", ["cut", "text", "other format", "negative", "beyond", "missing", "shape"])
def test_damaged_model_is_refused(data, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    run(tmp_path / "run", data, configured("popularity"))
    path = tmp_path / "run" / "model.safetensors"
    tensors, form = load_file(path), {"format": saved_model.FORMAT}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no tensors here")
    elif damage == "other format":
        save_file(tensors, path, {"format": "mmssl_fast model 99"})
    else:
        if damage == "negative":
            tensors["train.indices"][0] = -1
        elif damage == "beyond":
            tensors["train.indptr"][-1] += 10**6
        elif damage == "missing":
            del tensors["embedding.items"]
        else:
            tensors["embedding.users"] = tensors["embedding.users"][:-1].contiguous()
        save_file(tensors, path, form)
    with pytest.raises(InputError, match=r"model\.safetensors: "):
        saved_model.load(path)


def test_occupied_folder_is_refused(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run_folder.RunFolder(tmp_path, data, configured())
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_overwrite_replaces_the_run_and_keeps_the_rest(data, tmp_path):
    run(tmp_path / "run", data, configured())
    (tmp_path / "run" / "notes.txt").write_text("mine")
    config = configured(train__epochs=1, train__seed=9)
    folder = run_folder.RunFolder(tmp_path / "run", data, config, overwrite=True)
    assert (folder.path / "result.json").exists()  # until the system accepts
    folder.accepted()
    assert {one.name for one in folder.path.iterdir()} == {"config.toml", "metrics.jsonl", "notes.txt"}
    assert (folder.path / "config.toml").read_text() == to_toml(config)


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_unwritable_folder_is_one_sentence(data, tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as caught:
        run_folder.RunFolder(tmp_path / place, data, configured())
    assert "--out" in str(caught.value) and (tmp_path / "file").read_text() == "x"


def test_write_that_fails_leaves_the_old_file(tmp_path):
    from mmssl_trainer.files import write_with

    path = tmp_path / "result.json"
    path.write_text("old")

    def broken(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_with(path, broken)
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["result.json"]
