"""train.log_to: what TensorBoard, Weights & Biases and MLflow read back, also of a run that was killed and resumed."""

import json
import shutil
import sys

import pytest
from command_line import fails
from logged import NEEDED, expected, in_mlflow, in_tensorboard, in_wandb
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain

SMALL = ["--batch", "64", "--threads", "1", "--set", "model.dim=8", "--set", "train.checkpoint_every=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = synthetic(seed=4, n_users=60, n_items=40, modalities={"image": 5})
    return write_plain(data, tmp_path_factory.mktemp("catalogue") / "data")


def train(folder, run, log, *more, system="lightgcn"):
    options = ["--data", str(folder), "--out", str(run), "--system", system, "--set", f"train.log_to={log}"]
    return main(["train", *options, *SMALL, *more])


LOGS = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}


def assert_logged(run, log):
    found, wanted = LOGS[log](run), expected(run)
    assert found.keys() == wanted.keys() | {"seconds"}
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


@pytest.mark.parametrize("log", LOGS)
def test_log_has_what_the_run_folder_has(folder, tmp_path, log, monkeypatch):
    """Of a new run, one that goes on for more epochs, and one that goes on from an earlier checkpoint because it was
    killed after it had logged more."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    pytest.importorskip(log, reason=NEEDED)
    run = tmp_path / "run"
    assert train(folder, run, log, "--epochs", "2") == 0
    assert_logged(run, log)
    state = shutil.copytree(run / "state", tmp_path / "state")
    assert main(["train", "--resume", str(run), "--epochs", "4"]) == 0
    later = expected(run)
    shutil.rmtree(run / "state")
    shutil.copytree(state, run / "state")
    (run / "result.json").unlink()
    assert main(["train", "--resume", str(run), "--epochs", "4"]) == 0
    assert expected(run).keys() == later.keys()
    found, wanted = LOGS[log](run), expected(run)
    for name, values in wanted.items():
        assert {step: found[name][step] for step in values} == pytest.approx(values, rel=1e-6), name


def test_overwritten_run_has_a_log_of_its_own(folder, tmp_path):
    pytest.importorskip("tensorboard", reason=NEEDED)
    run = tmp_path / "run"
    assert train(folder, run, "tensorboard", "--epochs", "3") == 0
    assert train(folder, run, "tensorboard", "--epochs", "2", "--overwrite", system="mf") == 0
    assert_logged(run, "tensorboard")


def test_system_without_training_logs_its_test(folder, tmp_path):
    pytest.importorskip("tensorboard", reason=NEEDED)
    run = tmp_path / "run"
    assert train(folder, run, "tensorboard", system="popularity") == 0
    test = json.loads((run / "result.json").read_text())["test"]
    assert in_tensorboard(run)["test/recall@20"] == {0: pytest.approx(test["recall@20"])}


def test_wandb_goes_on_with_the_same_run(folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason=NEEDED)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = tmp_path / "run"
    assert train(folder, run, "wandb", "--epochs", "1") == 0
    assert main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    ids = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert ids == {(run / "wandb_run").read_text().strip()}
    assert len(list((run / "wandb").glob("offline-run-*/run-*.wandb"))) == 2


@pytest.mark.parametrize("log", ["tensorboard", "wandb", "mlflow"])
def test_missing_package_is_named_before_training(folder, tmp_path, log, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, log, None)
    options = ["--data", str(folder), "--out", str(tmp_path / "run"), "--set", f"train.log_to={log}", *SMALL]
    fails(capsys, ["train", *options], f'train.log_to = "{log}"', f"the package {log} is not installed", "[log]")
    assert not (tmp_path / "run").exists()


def test_tune_refuses_a_log(folder, tmp_path, capsys):
    options = ["--data", str(folder), "--system", "lightgcn", "--out", str(tmp_path / "search"), "--trials", "1"]
    message = "tune: train.log_to is set, but trials have no run folder"
    fails(capsys, ["tune", *options, "--set", "train.log_to=tensorboard"], message)
