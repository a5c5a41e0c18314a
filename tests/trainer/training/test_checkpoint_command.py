"""train --resume: the same run as without an interruption, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_cases import interrupted_at
from checkpoint_runs import begin, same_model
from mmssl_trainer.cli.main import main
from mmssl_trainer.training import checkpoints as checkpoint


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An uninterrupted run of six epochs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(begin(folder, out, "--epochs", "6")) == 0
    return out


def test_command_resumes_to_the_same_run(folder, whole, tmp_path, monkeypatch, capsys):
    """The model, the lines of metrics and the result; of the states the last one stays, for more epochs."""
    run = tmp_path / "run"
    interrupted_at(monkeypatch, 13)
    assert main(begin(folder, run, "--epochs", "6")) == 130
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "sec')
    monkeypatch.undo()
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    assert "note: resumed from the checkpoint written in epoch 2, after step 5 of 8" in capsys.readouterr().err
    assert same_model(whole, run) and len(list((run / "state").iterdir())) == 2
    lines = [[json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (whole, run)]
    assert [(line["epoch"], line["losses"]) for line in lines[0]] == [
        (line["epoch"], line["losses"]) for line in lines[1]
    ]
    results = [json.loads((one / "result.json").read_text()) for one in (whole, run)]
    assert results[0]["test"] == results[1]["test"] and results[0]["best_epoch"] == results[1]["best_epoch"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_states_in_another_place_are_not_taken_for_none(folder, whole, tmp_path, capsys, kind):
    """A run whose states were moved to a larger disk is not begun again, its best model not removed."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    for name in ("config.toml", "model.safetensors", "metrics.jsonl"):
        shutil.copy(whole / name, run)
    if kind == "file":
        (run / "state").write_text("")
    else:
        (run / "state").symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["train", "--resume", str(run)]) == 2
    assert "state: must be a folder, not a link or a file" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--resume", "RUN", "--seed", "3"], ["train.seed was 0", "is 3 now"]),
        (["--resume", "RUN", "--set", "optimiser.lr=1.0"], ["optimiser.lr was 0.003", "is 1.0 now"]),
        (["--resume", "RUN", "--out", "x"], ["--resume cannot be used with --out"]),
        (["--resume", "RUN", "--overwrite"], ["--resume cannot be used with --overwrite"]),
        (["--resume", "RUN"], ["is finished", "result.json"]),
        (["--resume", "/no/run"], ["/no/run: no such folder; give the folder of an interrupted or finished run"]),
    ],
)
def test_command_refuses(whole, tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    if len(arguments) > 2:
        (run / "result.json").unlink()
    assert main(["train", *[str(run) if one == "RUN" else one for one in arguments]]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


def test_resume_before_the_first_state_starts_again(folder, whole, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.toml", run)
    (run / "metrics.jsonl").write_text("{}\n")
    assert main(["train", "--resume", str(run)]) == 0
    assert "the run has no checkpoint yet, so it starts from the beginning" in capsys.readouterr().err
    assert same_model(whole, run)


def test_run_that_another_process_is_at_is_refused(folder, whole, tmp_path, capsys):
    """Two processes would remove each other's files; what the first has is left as it is, and goes on afterwards."""
    run = tmp_path / "a run"
    run.mkdir()
    shutil.copy(whole / "config.toml", run)
    program = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        for arguments in (["train", "--resume", str(run)], [*begin(folder, run), "--overwrite"]):
            assert main(arguments) == 2
            assert "another process is using this run" in capsys.readouterr().err
        assert [path.name for path in run.iterdir()] == ["config.toml"]
        other.communicate("\n")
    open_files = len(os.listdir("/proc/self/fd"))
    assert main(["train", "--resume", str(run)]) == 0 and len(os.listdir("/proc/self/fd")) == open_files
    assert same_model(whole, run)


def test_command_that_goes_on_can_be_pasted():
    assert checkpoint.resume_command(Path("a run")) == "mmssl-fast train --resume 'a run'"


def test_resuming_makes_no_file_elsewhere(folder, whole, tmp_path, monkeypatch, capsys):
    """metrics.jsonl is a link that leads out of the run's folder to nothing yet."""
    run = tmp_path / "run"
    interrupted_at(monkeypatch, 2)
    assert main(begin(folder, run, "--epochs", "6")) == 130
    monkeypatch.undo()
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(run)]) == 0
    assert not (tmp_path / "elsewhere").exists() and not (run / "metrics.jsonl").is_symlink()


def test_overwrite_removes_the_states_of_an_earlier_run(folder, whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "state" / "0000000099.json").write_text("{}")
    assert main([*begin(folder, run, "--epochs", "1"), "--overwrite"]) == 0
    assert {path.name for path in (run / "state").iterdir()} == {"0000000008.json", "0000000008.safetensors"}
