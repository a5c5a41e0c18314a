"""The command line's refusals: one line for a mistake, its exit code, and nothing half-written."""

import sys

import numpy as np
import pytest
from command_line import SMALL, fails
from mmssl_trainer.cli.main import main


@pytest.mark.parametrize(
    "arguments, fragments",
    [
        (["--data", "/no/such/folder"], ["/no/such/folder"]),
        (["--config", "/no/such.toml"], ["/no/such.toml", "cannot be read"]),
        (["--set", "loss.contrastve_tau=1"], ["--set", "'loss.contrastve_tau'", "'loss.contrastive_tau'"]),
        (["--set", "train.batch=lots"], ["train.batch", "'lots'"]),
        (["--set", "train.batch"], ["section.key=value"]),
        (["--epochs", "-1"], ["--epochs", "train.epochs = -1"]),
        (["--epochs", "three"], ["--epochs", "integer"]),
        (["--epochs", "3", "--set", "train.epochs=4"], ["train.epochs", "--epochs"]),
        (["--system", "mmsl"], ["must be one of mmssl, popularity", "did you mean mmssl?"]),
        (["--system", "LightGCN-M"], ["did you mean lightgcn_m?"]),
        (["--preset", "mmssl-tictoc"], ["no such preset or file", "svd-tiktok; did you mean mmssl-tiktok?"]),
        (["--resume", "gone"], ["gone: no such folder; give the folder of an interrupted or finished run"]),
        (["--device", "gpu"], ["device 'gpu': must be cpu, cuda, or a device such as cuda:1"]),
        (["--device", "cuda:77"], ["cuda:77"]),
        (["--set", "data.modalities=['smell']"], ["smell", "image"]),
        (["--colour", "red"], ["--colour", "train --help"]),
    ],
)
def test_train_refuses_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    fails(capsys, ["train", *arguments], *fragments)
    assert list(tmp_path.iterdir()) == []


def test_config_error_names_the_file(tmp_path, capsys):
    (tmp_path / "my.toml").write_text("[model]\nlayer = 3\n")
    fails(capsys, ["train", "--config", str(tmp_path / "my.toml")], "my.toml", "'model.layer'", "'model.layers'")


def test_occupied_folder(folder, run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    fails(capsys, ["train", "--data", str(folder), "--out", str(run), *SMALL], str(run), "not empty", "--overwrite")
    assert before == {path: path.stat().st_mtime_ns for path in run.iterdir()}


def test_unwritable_folder(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "run"
    fails(capsys, ["train", "--data", str(folder), "--out", str(out), *SMALL], str(out), "cannot be written")
    assert (tmp_path / "file").read_text() == "x"


def test_non_finite_loss_is_a_line_and_exit_1(folder, tmp_path, capsys):
    arguments = ["train", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL, "--set", "optimiser.lr=1e30"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "'bpr'" in captured.err.splitlines()[-1] and "epoch" in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    "arguments, fragments",
    [
        (["evaluate", "/no/run"], ["/no/run", "no such file"]),
        (["evaluate", "RUN", "--split", "train"], ["'train'", "'test', 'val'"]),
        (["evaluate", "RUN", "--k", "0"], ["k [0]", "between 1 and"]),
        (["evaluate", "RUN", "--k", "20", "--k", "100000"], ["k [20, 100000]", "the number of items"]),
        (["recommend", "RUN", "--users", "user001", "--k", "100000"], ["k [100000]", "the number of items"]),
        (["train", "--data", "synthetic", "--set", "evaluate.ks=[100000]"], ["evaluate.ks", "the number of items"]),
        (["recommend", "RUN"], ["--users", "--out"]),
        (["recommend", "RUN", "--users", "user001,nobody"], ["'nobody'"]),
        (["recommend", "RUN", "--users", "user001", "--out", "/no/folder/x.csv"], ["/no/folder"]),
        (["recommend", "RUN", "--out", "x.txt"], ["x.txt", ".parquet"]),
        (["recommend", "RUN", "--users-from", "/no/list"], ["/no/list"]),
        (["data", "check", "/no/data"], ["/no/data"]),
        (["data", "check", "synthetic", "--split-seed", "-1"], ["--split-seed", "greater than or equal to 0"]),
        (["data", "check", "synthetic", "--layout", "tape"], ["tape"]),
        (["benchmark", "--checkout", "/no/checkout"], ["/no/checkout", "--checkout"]),
        (["trane"], ["trane", "--help"]),
        (["evaluate"], ["RUN"]),
    ],
)
def test_other_commands_refuse(run, capsys, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    fails(capsys, [str(run) if one == "RUN" else one for one in arguments], *fragments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate"],
        ["recommend"],
        ["train", "--resume"],
        ["train", "--preset"],
        ["tune", "--space"],
        ["reproduce", "table2", "--dry-run", "--out"],
        ["benchmark", "--checkout"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_name_that_the_system_refuses_is_a_line(arguments, capsys):
    fails(capsys, [*arguments, "x" * 300], "xxxx", "File name too long")


def test_missing_extra_is_one_sentence(capsys, monkeypatch):
    loaded = ("typer.", "mmssl_trainer.cli.app")
    for name in [name for name in sys.modules if name == "typer" or name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    fails(capsys, ["train"], "typer", "pip install", '[train]"')


@pytest.mark.parametrize("more", [[], ["--compare"]])
def test_system_that_refuses_leaves_no_folder_and_the_corrected_command_works(folder, tmp_path, capsys, more):
    """40 items allow 39 dimensions, 4 heads 36 of them; the second command is the first with what the message says."""
    out = tmp_path / "new" / "run"
    command = ["train", "--data", str(folder), "--system", "svd", "--threads", "1", "--out", str(out), *more]
    fails(capsys, command, "set model.dim to 36 or less")
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--set", "model.dim=36"]) == 0


def test_refusal_keeps_the_run_that_was_to_be_overwritten(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--out", str(out), *SMALL]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    refused = ["--overwrite", "--threads", "1", "--batch", "1", "--system", "mmssl"]
    fails(capsys, ["train", "--data", str(folder), "--out", str(out), *refused], "needs at least 2")
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command, fragment",
    [
        (["tune", "--system", "svd", "--space", "SPACE", "--out", "tuned"], "model.dim"),
        (["tune", "--system", "lightgcn", "--device", "cuda:77", "--out", "tuned"], "cuda:77"),
        (["reproduce", "table2", "--systems", "svd", "--seeds", "1", "--out", "tuned"], "model.dim"),
    ],
)
def test_other_commands_leave_no_folder_either(folder, tmp_path, monkeypatch, capsys, command, fragment):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text("[svd]\npower = [0, 1]\n")
    command = ["space.toml" if one == "SPACE" else one for one in command]
    fails(capsys, [*command, "--data", str(folder)], fragment)
    assert [one.name for one in tmp_path.iterdir()] == ["space.toml"]


def test_tune_needs_validation_interactions(tmp_path, monkeypatch, capsys):
    """Every trial would score 0: refused before the first, with nothing written."""
    pairs = [f"{u},{(3 * u + n) % 20},{'train' if n < 4 else 'test'}" for u in range(30) for n in range(5)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "interactions.csv").write_text("\n".join(["user,item,split", *pairs]) + "\n")
    np.save(tmp_path / "data" / "image_feat.npy", np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32))
    out = tmp_path / "tuned"
    fails(
        capsys,
        ["tune", "--data", str(tmp_path / "data"), "--system", "lightgcn", "--out", str(out)],
        "no validation interactions",
        '"val"',
    )
    assert not out.exists()


def test_plan_of_more_interactions_than_pairs_is_refused(capsys):
    fails(
        capsys,
        ["benchmark", "--plan", "--users", "10", "--items", "10", "--interactions", "101"],
        "101 interactions are more than the 100 possible pairs",
    )
    assert main(["benchmark", "--plan", "--users", "10", "--items", "10", "--interactions", "100"]) == 0
