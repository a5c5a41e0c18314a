"""Training that is killed, stopped by a signal or out of disk space."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint_runs import begin
from mmssl_trainer import configure, load_data
from mmssl_trainer.cli.main import main
from mmssl_trainer.errors import Interrupted
from mmssl_trainer.training import checkpoints, signals
from mmssl_trainer.training.progress import LossTable, Position
from mmssl_trainer.training.signals import defer_signals

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What came of runs in processes of their own that were killed, signalled, or at the end of the disk."""
    command = [sys.executable, "-P", str(HERE / "checkpoint_runs.py"), str(tmp_path_factory.mktemp("runs")), "4", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(processes):
    """kill -9, several times in one run: what is there can be resumed, and the end is the uninterrupted run's."""
    found = processes["killed"]
    assert found["kills"] == 4 and found["steps"] and found["same"], found
    assert found["steps"] == sorted(found["steps"]) or found["finished"]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_finishes_the_step_and_says_how_to_go_on(processes, number, code):
    returned, said, step = processes["stopped"][str(int(number))]
    assert returned == code and step > 0
    *epochs, last = said.splitlines()
    assert all(line.startswith(("note: features: row 0 ", "MMSSL epoch ")) for line in epochs)
    assert last.startswith("mmssl-fast: interrupted ") and "mmssl-fast train --resume " in last, said


@pytest.mark.parametrize("limit", [300, 20_000])
def test_disk_that_really_ends(processes, limit):
    """The operating system refuses to let any file grow further: one line, exit code 2, no half-written file."""
    code, said, left = processes["full"][str(limit)]
    assert code == 2 and "cannot be written" in said.splitlines()[-1], said
    assert all(line.startswith(("note: features: row 0 ", "MMSSL epoch ")) for line in said.splitlines()[:-1]), said
    assert not left


def test_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt), defer_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_the_launcher_repeats(monkeypatch):
    """Ctrl-C reaches a rank twice, from the terminal and from torchrun. Only a later one ends the step."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setattr(signals, "PASSED_ON_SECONDS", 0.2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), defer_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
            passed_on = True
            time.sleep(0.3)
            signal.raise_signal(signal.SIGINT)
        assert passed_on
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["visit", "raise_if_stopped"])
def test_a_signal_while_the_ranks_agree(tmp_path, monkeypatch, where):
    """The ranks agree that none has received a signal while this one receives it: the next call stops the run."""
    config = configure({"model.system": "lightgcn", "train.checkpoint_minutes": 0})

    def interrupted_agreement(received, due=False):
        signal.raise_signal(signal.SIGTERM)
        return received, due

    with defer_signals() as stop:
        point = checkpoints.Checkpoints(tmp_path, load_data(), config, stop)
        monkeypatch.setattr(point, "_write", lambda *arguments: None)
        position = Position(2, LossTable(9, torch.device("cpu")))
        call = {"visit": lambda: point.visit(None, None, position), "raise_if_stopped": point.raise_if_stopped}[where]
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "agreed", interrupted_agreement)
            call()
        with pytest.raises(Interrupted) as error:
            call()
    assert error.value.signal == signal.SIGTERM


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["baseline", "test"])
def test_signal_outside_training_names_what_goes_on(folder, tmp_path, monkeypatch, capsys, number, code, when):
    """While a baseline is fitted beside, and in the last evaluation."""
    from mmssl_trainer import ranking as evaluate
    from mmssl_trainer.runs import complete
    from mmssl_trainer.runs import train as training

    run, before = tmp_path / "run", signal.getsignal(number)
    fit_and_test, split_metrics = complete.fit_and_test, evaluate.split_metrics

    def fitted(dataset, config, name, *own):
        if when == "baseline" and not own:
            signal.raise_signal(number)
        return fit_and_test(dataset, config, name, *own)

    def evaluated(users, items, dataset, split, *how, **options):
        if when == split:
            signal.raise_signal(number)
        return split_metrics(users, items, dataset, split, *how, **options)

    monkeypatch.setattr(training, "fit_and_test", fitted)
    monkeypatch.setattr(evaluate, "split_metrics", evaluated)
    assert main(begin(folder, run, "--epochs", "1", *(["--compare"] if when == "baseline" else []))) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"mmssl-fast: interrupted; to resume: mmssl-fast train --resume {run}"
    assert not (run / "result.json").exists() and signal.getsignal(number) is before
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0 and (run / "result.json").exists()
