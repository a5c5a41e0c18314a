"""`mmssl-fast tune`: a search that is kept, goes on after an interruption, and whose best is a preset."""

import fcntl
import json
import os
import signal
import tomllib
from pathlib import Path

import numpy as np
import optuna
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.config.sections import Config
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.study.tune import record
from mmssl_trainer.study.tune import search as tune
from mmssl_trainer.study.tune.space import find_space, read_space
from mmssl_trainer.systems import SYSTEMS
from mmssl_trainer.training import loop as train
from mmssl_trainer.training.progress import Fit
from optuna.distributions import CategoricalDistribution

SPACE = (
    "[optimiser]\nlr = { low = 1e-3, high = 1e-1, log = true }\n[model]\ndim = [4, 8]\nlayers = { low = 1, high = 3 }\n"
)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    """The built-in data set, smaller."""
    small = synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5, "text": 4})
    monkeypatch.setattr("mmssl_trainer.data.synthetic", lambda seed: small)
    return small


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


def tuned(space, out, *more, trials=3):
    asked = ["--system", "lightgcn", "--space", str(space), "--out", str(out), "--epochs", "2", "--threads", "1"]
    return main(["tune", *asked, "--trials", str(trials), "--set", "model.dim=8", "--set", "train.batch=64", *more])


def table(out):
    """The record's rows by trial."""
    lines = [line.strip("| ").split(" | ") for line in (out / record.RECORD).read_text().splitlines()]
    return {int(cells[0]): cells[1:] for cells in lines if cells[0].isdecimal()}


def test_the_best_trial_is_a_preset_that_gives_its_recall(tmp_path, space, data, capsys):
    out = tmp_path / "out"
    assert tuned(space, out, trials=4) == 0
    rows = table(out)
    assert sorted(rows) == [0, 1, 2, 3] and data.fingerprint[:16] in (out / record.RECORD).read_text()
    assert rows[0][2:5] == ["0.003", "8", "2"], "the first trial is the base configuration"
    assert rows[next(iter(rows))][0] == max(cells[0] for cells in rows.values() if cells[1] == "complete")
    preset = tomllib.loads((out / record.BEST).read_text())
    assert "data" not in preset and not {"seed", "threads"} & preset.get("train", {}).keys()
    fit = train.fit(data, load(None, {"train.threads": (1, "")}, out / record.BEST))
    assert f"{fit.best:.4f}" in (out / record.BEST).read_text().splitlines()[0]
    assert f"{fit.best:.4g}" == rows[next(iter(rows))][0]


def test_a_search_goes_on_and_takes_an_interrupted_trial_again(tmp_path, space, monkeypatch, capsys):
    fit, calls = train.fit, []

    def interrupted(*given, **more):
        calls.append(given[1].optimiser.lr)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*given, **more)

    monkeypatch.setattr(train, "fit", interrupted)
    out = tmp_path / "out"
    assert tuned(space, out, trials=4) == 130
    assert sorted(table(out)) == [0, 1]
    capsys.readouterr()
    assert tuned(space, out, trials=4) == 0
    assert calls[3] == calls[2] and len(calls) == 5 and len(set(calls)) == 4
    assert capsys.readouterr().err.count("trial ") == 2 and len(table(out)) == 4
    assert tuned(space, out, trials=4) == 0 and len(calls) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_search_after_a_step_and_not_amid_the_journal(tmp_path, space, monkeypatch, capsys, number):
    told, sent = tune._TrialObserver.epoch_ended, []

    def interrupting(self, record):
        if self.trial.number == 1 and not sent:
            sent.append(number)
            signal.raise_signal(number)
        told(self, record)  # writes, and is not cut off

    monkeypatch.setattr(tune._TrialObserver, "epoch_ended", interrupting)
    out = tmp_path / "out"
    assert tuned(space, out, trials=3) == 128 + number
    assert "interrupted; repeat the command to continue" in capsys.readouterr().err and sorted(table(out)) == [0]
    assert tuned(space, out, trials=3) == 0
    lines = [json.loads(line) for line in (out / tune.JOURNAL).read_text().splitlines()]
    written = [one["trial_id"] for one in lines if "intermediate_value" in one]
    assert written == [0, 0, 1, 2, 2, 3, 3] and len(table(out)) == 3


def test_worse_runs_end_early_and_only_so(tmp_path, space, monkeypatch):
    def recalls(dataset, config, watch):
        for epoch in range(1, 7):
            watch.epoch_ended({"epoch": epoch, "val": {"recall@20": config.optimiser.lr}})
        found = Fit(torch.zeros(1), torch.zeros(1), {}, best=config.optimiser.lr, best_epoch=6)
        found.epochs = [{}] * 6
        return found

    monkeypatch.setattr(train, "fit", recalls)
    for out, more in ((tmp_path / "a", []), (tmp_path / "b", ["--no-prune"])):
        assert tuned(space, out, *more, trials=12) == 0
        early = [cells for cells in table(out).values() if "pruned" in cells[1]]
        assert bool(early) == (not more)
        assert all(cells[1] == f"pruned at epoch {tune.LEAST_EPOCHS}" for cells in early)
        ended = [float(cells[2]) for cells in table(out).values() if cells[1] == "complete"]
        assert not early or max(float(cells[2]) for cells in early) < max(ended)


def test_seeds_are_averaged(tmp_path, space, monkeypatch):
    def recalls(dataset, config, watch):
        return train.Fit(torch.zeros(1), torch.zeros(1), {}, best=0.1 + 0.2 * config.train.seed, best_epoch=1)

    monkeypatch.setattr(train, "fit", recalls)
    assert tuned(space, tmp_path / "out", "--seeds", "3", trials=1) == 0
    assert table(tmp_path / "out")[0][0] == "0.3"


def test_a_trial_whose_keys_do_not_go_together_is_noted_and_passed_over(tmp_path, space):
    space.write_text("[model]\nheads = [1, 4]\ndim = [8, 6]\n")
    assert tuned(space, tmp_path / "out", "--set", "model.heads=1", trials=8) == 0
    states = {tuple(cells[2:4]): cells[1] for cells in table(tmp_path / "out").values()}
    assert states.pop(("4", "6")) == "refused" and set(states.values()) == {"complete"}


@pytest.mark.parametrize(
    "change, says",
    [
        (["--set", "model.omega=0.3"], "model.omega was 0.1"),
        (["--seeds", "2"], "1 seeds per trial"),
        (["space"], "another space"),
        (["data"], "other data"),
    ],
)
def test_another_search_is_refused(tmp_path, space, change, says, monkeypatch, capsys):
    assert tuned(space, tmp_path / "out", trials=1) == 0
    before = (tmp_path / "out" / record.RECORD).read_text()
    if change == ["space"]:
        space.write_text(SPACE.replace("[4, 8]", "[4, 8, 16]"))
    if change == ["data"]:
        monkeypatch.setattr("mmssl_trainer.data.synthetic", lambda seed: synthetic(seed=3, n_users=60, n_items=40))
    capsys.readouterr()
    assert tuned(space, tmp_path / "out", *(change if change[0].startswith("-") else []), trials=2) == 2
    assert says in capsys.readouterr().err
    assert (tmp_path / "out" / record.RECORD).read_text() == before


def test_a_second_process_is_refused(tmp_path, space, capsys):
    out = tmp_path / "out"
    assert tuned(space, out, trials=1) == 0
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert tuned(space, out, trials=2) == 2
    os.close(handle)
    assert "another process" in capsys.readouterr().err and len(table(out)) == 1


@pytest.mark.parametrize(
    "text, says",
    [
        ("[optimiser]\nlr = { low = 1e-2, high = 1e-3 }", "a < b"),
        ("[optimiser]\nlr = { low = 0, high = 1e-3, log = true }", "a > 0"),
        ("[optimiser]\nlr = []", "list of values"),
        ("[optimiser]\nlr = 0.1", "list of values"),
        ("[optimiser]\nrate = [0.1, 0.2]", "optimiser.rate"),
        ("[model]\nlayers = [1, 1000]", "model.layers = 1000"),
        ("[train]\nseed = [1, 2]", "train.seed cannot be searched over"),
        ("[train]\nselect_by = ['ndcg@10', 'recall@20']", "train.select_by cannot be searched over"),
        ("[data]\nlayout = ['auto', 'plain']", "data.layout cannot be searched over"),
        ("model = 1", "[model]"),
        ("", "contains no key"),
        ("[", "is not valid TOML"),
    ],
)
def test_a_space_that_makes_no_sense_is_one_line(tmp_path, space, text, says, capsys):
    space.write_text(text)
    assert tuned(space, tmp_path / "out") == 2
    line = capsys.readouterr().err
    assert says in line and "space.toml" in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_values_are_checked_with_those_that_every_trial_has(space):
    space.write_text("[loss]\nautoencoder = [false, true]\nadversarial = [false]\n")
    assert {*read_space(space, Config()).keys} == {"loss.autoencoder", "loss.adversarial"}
    space.write_text("[loss]\nautoencoder = [false, true]\nadversarial = [false, true]\n")
    with pytest.raises(InputError, match="the auto-encoder replaces the adversarial task"):
        read_space(space, Config())


def test_bundled_spaces_are_read_and_others_asked_for(capsys):
    for name in ("mmssl", "lightgcn", "mmssl-encoder", "mmssl-selfsupervised", "mmssl-structural"):
        assert read_space(find_space(name, "mf"), Config()).keys
    assert find_space(None, "mmssl") == find_space("mmssl", "lightgcn")
    with pytest.raises(InputError, match="give one with --space FILE"):
        find_space(None, "popularity")
    with pytest.raises(
        InputError, match="space 'nosuch': no such file; the bundled spaces are clcrec, ease, ease-content, grcn"
    ):
        find_space("nosuch", "mmssl")
    assert "mmssl" in SYSTEMS and optuna.logging.get_verbosity() == optuna.logging.WARNING


@pytest.mark.parametrize("system", sorted({*SYSTEMS} - {"popularity"}))
def test_every_system_has_a_space_of_its_own_and_reads_every_key_of_it(system):
    space = read_space(find_space(None, system), Config())
    assert Path(space.source).stem == system
    data = synthetic(seed=3, n_users=60, n_items=40, modalities={"image": 5}, mean_degree=8)
    small = {
        "model.system": system,
        "model.dim": 8,
        "train.epochs": 2,
        "train.batch": 64,
        "train.threads": 1,
        "train.validate_every": 2,
        "ncl.warm_up": 1,
        "ncl.clusters": 5,
        "loss.lambda_generator": 0.1,
    }

    def scores(**changed):
        values = {name: (value, "test") for name, value in (small | changed).items()}
        fitted = train.fit(data, load(None, values))
        return (sp.csr_array(fitted.users) @ sp.csr_array(fitted.items).T).toarray()

    for key, values in space.keys.items():
        ends = [*values.choices] if isinstance(values, CategoricalDistribution) else [values.low, values.high]
        if len(ends) > 1 and key != "model.dim":
            assert not np.array_equal(scores(**{key: ends[0]}), scores(**{key: ends[-1]})), key


def test_tune_without_optuna(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    for module in ("request", "search"):
        monkeypatch.delitem(sys.modules, f"mmssl_trainer.study.tune.{module}", raising=False)
        monkeypatch.delattr(f"mmssl_trainer.study.tune.{module}", raising=False)
    assert main(["tune", "--trials", "1"]) == 2
    assert '[train]"' in capsys.readouterr().err
