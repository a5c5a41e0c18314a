"""A finished run goes on for more epochs, to the bits of a longer run; another run begins from its model."""

import json

import numpy as np
import pytest
import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.runs import saved_model
from mmssl_trainer.training import checkpoints as checkpoint
from mmssl_trainer.training import state_file
from safetensors.torch import load_file

BASE = ["--batch", "64", "--threads", "1", "--set", "model.dim=8", "--set", "model.hidden=[16, 8]"]


def catalogue(place, n_users=60, **ids):
    data = synthetic(seed=4, n_users=n_users, n_items=40, modalities={"image": 5})
    return write_plain(type(data)(**{**vars(data), **ids}), place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return catalogue(tmp_path_factory.mktemp("catalogue") / "data")


def train(folder, out, *more, system="lightgcn"):
    return main(["train", "--data", str(folder), "--out", str(out), "--system", system, *BASE, *more])


def refused(capsys, arguments, *fragments):
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    for fragment in fragments:
        assert fragment in said, said


def assert_same_run(one, other):
    ours, theirs = (load_file(run / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    kept = [[(line["epoch"], line["losses"], line.get("val")) for line in each] for each in lines]
    assert kept[0] == kept[1]
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    assert all(results[0][key] == results[1][key] for key in ("test", "val", "best_epoch"))
    configs = [(run / "config.toml").read_text() for run in (one, other)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    "system, more", [("lightgcn", []), ("mmssl", []), ("sgl", ["--set", "train.validate_every=3"])]
)
def test_more_epochs_end_with_the_bits_of_a_longer_run(folder, tmp_path, capsys, system, more):
    """Also where the shorter run's last validation is one that the longer run does not have."""
    assert train(folder, tmp_path / "long", "--epochs", "5", *more, system=system) == 0
    assert train(folder, tmp_path / "short", "--epochs", "2", *more, system=system) == 0
    assert main(["evaluate", str(tmp_path / "short")]) == 0
    assert main(["train", "--resume", str(tmp_path / "short"), "--epochs", "5"]) == 0
    assert_same_run(tmp_path / "short", tmp_path / "long")


def test_interrupted_run_may_get_more_epochs(folder, tmp_path, monkeypatch):
    assert train(folder, tmp_path / "long", "--epochs", "4") == 0
    visit = checkpoint.Checkpoints.visit

    def stopping(self, system, fit, position, epoch_ended=False):
        if fit.step == 3:
            self.stop.received = 2
        visit(self, system, fit, position, epoch_ended)

    monkeypatch.setattr(checkpoint.Checkpoints, "visit", stopping)
    assert train(folder, tmp_path / "short", "--epochs", "2") == 130
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "short"), "--epochs", "4"]) == 0
    assert_same_run(tmp_path / "short", tmp_path / "long")


def test_finished_run_that_cannot_go_on_says_why_and_stays_as_it_was(folder, tmp_path, capsys):
    run, ended = tmp_path / "run", tmp_path / "ended"
    assert train(folder, run, "--epochs", "2") == 0
    assert train(folder, ended, "--epochs", "30", "--set", "train.patience=1", "--set", "optimiser.lr=1e-9") == 0
    assert train(folder, tmp_path / "svd", system="svd") == 0
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    again = "--from"
    refused(capsys, ["train", "--resume", str(run)], "is finished", "--epochs above 2", again)
    refused(capsys, ["train", "--resume", str(run), "--epochs", "1"], "train.epochs was 2", "is 1 now")
    refused(capsys, ["train", "--resume", str(run), "--epochs", "5", "--batch", "32"], "train.batch was 64")
    refused(capsys, ["train", "--resume", str(ended), "--epochs", "50"], "train.patience", again)
    refused(capsys, ["train", "--resume", str(tmp_path / "svd"), "--epochs", "500"], "SVD has no training to resume")
    state_file.remove(run / "state")
    refused(capsys, ["train", "--resume", str(run), "--epochs", "5"], "it has no checkpoint", again)
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.parametrize("system", ["lightgcn", "mmssl", "lattice"])
def test_another_run_begins_from_the_model(folder, tmp_path, system):
    """Before its first step its embeddings are the model's; data and settings are those of the first run."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(folder, first, "--epochs", "2", system=system) == 0
    assert main(["train", "--from", str(first), "--out", str(tmp_path / "none"), "--epochs", "0"]) == 0
    models = [saved_model.load(run) for run in (first, tmp_path / "none")]
    assert all(torch.equal(models[0].parameters[name], one) for name, one in models[1].parameters.items())
    assert torch.equal(models[0].users, models[1].users) and torch.equal(models[0].items, models[1].items)
    assert main(["train", "--from", str(first), "--out", str(second), "--epochs", "1"]) == 0
    assert f'start = "{first.resolve()}"' in (second / "config.toml").read_text()
    assert not torch.equal(saved_model.load(second).users, models[0].users)


def test_model_that_does_not_fit_is_refused_and_nothing_is_left(folder, tmp_path, capsys):
    first, out = tmp_path / "first", tmp_path / "out"
    assert train(folder, first, "--epochs", "1") == 0
    begin = ["train", "--from", str(first), "--out", str(out)]
    named = catalogue(tmp_path / "named", user_ids=np.array([f"u{n}" for n in range(60)]))
    refused(capsys, [*begin, "--data", str(named)], "none of the 60 users of the model is in named", "same catalogue")
    refused(capsys, [*begin, "--system", "mf"], "is a model of LightGCN, but this run trains MF-BPR")
    refused(capsys, [*begin, "--set", "model.dim=16"], "users has the shape (60, 8) instead of (60, 16)")
    refused(capsys, [*begin, "--preset", "mf-tiktok"], "--from cannot be used with --preset")
    refused(capsys, ["train", "--from", str(tmp_path), "--out", str(out)], "contains no config.toml", "finished run")
    refused(capsys, ["train", "--from", str(first), "--resume", str(first)], "--resume cannot be used with --from")
    assert not out.exists()
