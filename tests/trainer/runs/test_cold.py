"""`mmssl-fast evaluate --cold`: items that training never saw, ranked by their features alone."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from command_line import fails
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.data.dataset import build
from mmssl_trainer.runs import saved_model

WITH_FEATURES = ["mmssl", "vbpr", "lightgcn_m", "grcn", "lattice", "clcrec", "mmgcl", "slmrec", "svd"]
OPTIONAL = ["svd", "ease", "itemknn"]  # with features only if the key content is above 0


@pytest.fixture(scope="module")
def data():
    """A catalogue every seventh item of which is held out of training whole: half of its users go to each other
    split."""
    whole = synthetic(seed=1, n_users=150, n_items=105, modalities={"image": 8, "text": 6}, mean_degree=16, noise=0.2)
    found = [getattr(whole, split).nonzero() for split in ("train", "val", "test")]
    users, items = (np.concatenate(side) for side in zip(*found, strict=True))
    cold = items % 7 == 0
    parts = {"train": ~cold, "val": cold & (users % 2 == 0), "test": cold & (users % 2 == 1)}
    splits = {split: (users[kept], items[kept]) for split, kept in parts.items()}
    return build("cold", "made", (whole.n_users, whole.n_items), splits, whole.features)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold")
    path = write_plain(data, folder / "data")
    for system in (*WITH_FEATURES, "lightgcn", "popularity"):
        arguments = [
            "--system",
            system,
            "--epochs",
            "4",
            "--threads",
            "1",
            "--batch",
            "256",
            "--set",
            "model.dim=16",
            "--set",
            "optimiser.lr=0.02",
            "--set",
            "svd.content=0.5",
        ]
        assert main(["train", "--data", str(path), "--out", str(folder / system), *arguments]) == 0
    for system in OPTIONAL:
        arguments = ["--system", system, "--threads", "1", "--set", "model.dim=16"]
        assert main(["train", "--data", str(path), "--out", str(folder / f"{system}-alone"), *arguments]) == 0
    return folder


def evaluated(run, capsys, *more):
    capsys.readouterr()
    assert main(["evaluate", str(run), "--cold", "--k", "5", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("system", WITH_FEATURES)
def test_features_find_cold_items(runs, data, system, capsys):
    """Well above a random order of the 15 candidates, of which 5 are listed."""
    found = evaluated(runs / system, capsys)
    assert found["candidates"] == 15 and found["users"] == (np.diff(data.test.indptr) > 0).sum()
    assert found["recall@5"] > 1.3 * 5 / 15


def test_mmssl_cold_items_are_equation_12_of_their_own_features(runs, data, capsys):
    model = saved_model.load(runs / "mmssl")
    items = 0
    for m, raw in enumerate(data.features.values()):
        raw = torch.from_numpy(raw).double()
        raw = (raw - raw.mean(0)) / raw.std(0, correction=0)
        layer = [model.parameters[f"projections.{m}.{kind}"].double() for kind in ("weight", "bias")]
        items = items + 0.1 * F.normalize(F.linear(raw, *layer), dim=1)
    cold = np.flatnonzero(data.train.sum(axis=0) == 0)
    order = (model.users.double() @ items[cold].T).argsort(1, descending=True)[:, :5].numpy()
    relevant = sp.csr_array(data.test)[:, cold].toarray()
    hits = np.take_along_axis(relevant, order, 1).sum(1)
    asked = relevant.sum(1) > 0
    recall = (hits[asked] / relevant.sum(1)[asked]).mean()
    assert evaluated(runs / "mmssl", capsys)["recall@5"] == pytest.approx(recall)


def test_validation_and_table(runs, data, capsys):
    assert evaluated(runs / "vbpr", capsys, "--split", "val")["users"] == (np.diff(data.val.indptr) > 0).sum()
    assert main(["evaluate", str(runs / "vbpr" / "model.safetensors"), "--cold", "--mask-validation"]) == 0
    assert "15 cold items" in capsys.readouterr().out


@pytest.mark.parametrize("system", ["lightgcn", "popularity"])
def test_systems_without_a_modality_side_are_refused(runs, system, capsys):
    fails(capsys, ["evaluate", str(runs / system), "--cold"], "does not use features, so it cannot rank cold items")


@pytest.mark.parametrize("system", OPTIONAL)
def test_a_system_whose_setting_leaves_the_features_out_names_the_setting(runs, system, capsys):
    fails(capsys, ["evaluate", str(runs / f"{system}-alone"), "--cold"], f"only if {system}.content is above 0")


def test_data_without_cold_items_is_refused(tmp_path, monkeypatch, capsys):
    whole = synthetic(seed=1, n_users=60, n_items=30, modalities={"image": 4}, mean_degree=12)
    monkeypatch.setattr("mmssl_trainer.data.synthetic", lambda seed: whole)
    arguments = ["--system", "vbpr", "--epochs", "1", "--set", "train.compare='no'", "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--cold"]) == 2
    assert "of 30 items have no training interaction" in capsys.readouterr().err


def test_other_data_is_refused(runs, data, capsys):
    other = synthetic(seed=4, n_users=40, n_items=30, modalities={"image": 4})
    path = runs / "data"
    kept = {one: one.read_bytes() for one in path.iterdir()}
    try:
        for one in kept:
            one.unlink()
        write_plain(other, path)
        capsys.readouterr()
        assert main(["evaluate", str(runs / "vbpr"), "--cold"]) == 2
        assert data.fingerprint[:16] in capsys.readouterr().err
    finally:
        for one in path.iterdir():
            one.unlink()
        for one, content in kept.items():
            one.write_bytes(content)
