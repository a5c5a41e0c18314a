"""`mmssl-fast reproduce --jobs` and `tune --jobs`: runs and trials at once, each in a process of its own."""

import json
import os
import pty
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import process_parts
import pytest
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.data import load as load_data
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.errors import InputError, WorkerFailed
from mmssl_trainer.files import lock, unlock
from mmssl_trainer.runs import folder as run_folder
from mmssl_trainer.study import processes
from mmssl_trainer.study.reproduce import targets
from mmssl_trainer.study.tune import search as tune
from mmssl_trainer.study.tune.space import read_space

pytestmark = pytest.mark.processes

TINY = ["--threads", "1", "--set", "model.dim=8", "--set", "train.batch=64", "--set", "train.patience=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data that another process can read too."""
    data = synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5, "text": 4})
    return write_plain(data, tmp_path_factory.mktemp("data") / "small")


def command(folder, out, *more):
    return ["reproduce", "table2", "--data", str(folder), "--out", str(out), *TINY, *more]


def script():
    """The command as it is installed: `python -m` would find packages in the current folder."""
    return str(Path(sysconfig.get_path("scripts")) / "mmssl-fast")


def results(out):
    """What every finished run found on the test users, by its folder's name."""
    found = {path.parent.name: run_folder.read_result(path.parent) for path in out.glob("runs/*/result.json")}
    return {name: (one["test"], one["val"], one["best_epoch"]) for name, one in found.items()}


def begun(out, system):
    """The runs that have an epoch behind them."""
    return [path.parent for path in out.glob(f"runs/{system}-*/metrics.jsonl") if path.stat().st_size]


def until(holds, may_wait=lambda: True, seconds=90):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline and may_wait()
        time.sleep(0.05)


def nobody_has(run):
    """Whether no process is at work in the run's folder."""
    try:
        lock(run, "busy")
    except InputError:
        return False
    unlock(run)
    return True


def said(capsys):
    """The line that ended the command."""
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("mmssl-fast")]
    return line


def test_runs_at_once_come_out_as_in_turn(folder, tmp_path, capsys):
    asked = ["--systems", "mf,lightgcn", "--seeds", "1", "--epochs", "3"]
    assert main(command(folder, tmp_path / "turn", *asked)) == 0
    capsys.readouterr()
    assert main(command(folder, tmp_path / "once", *asked, "--jobs", "2")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(",")[0].partition("  ")[2] for line in lines) == ["LightGCN", "MF-BPR"]
    assert [line[:3] for line in lines] == ["1/2", "2/2"] and all(": done, " in line for line in lines)
    assert results(tmp_path / "turn") == results(tmp_path / "once") and len(results(tmp_path / "once")) == 2
    assert main(command(folder, tmp_path / "once", *asked, "--jobs", "2")) == 0
    assert capsys.readouterr().err.count("already done") == 2


def test_a_signal_ends_every_run_after_a_step_and_the_command_goes_on(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "POLL", 0.02)
    asked = command(folder, tmp_path / "a", "--systems", "lightgcn", "--seeds", "2", "--epochs", "100", "--jobs", "2")
    shown = processes.progress.WorkerProgress.show
    sent = []

    def interrupting(self, title, progress):
        shown(self, title, progress)
        if begun(tmp_path / "a", "lightgcn") and not sent:
            sent.append(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(processes.progress.WorkerProgress, "show", interrupting)
    assert main(asked) == 143
    assert said(capsys) == "mmssl-fast: interrupted with 2 of 2 runs left; repeat the command to continue"
    monkeypatch.setattr(processes.progress.WorkerProgress, "show", shown)
    for run in begun(tmp_path / "a", "lightgcn"):
        assert list((run / "state").glob("*.json")) and not (run / "result.json").exists()
    assert main(asked) == 0
    assert main([str(tmp_path / "b") if one == str(tmp_path / "a") else one for one in asked[:-2]]) == 0
    assert results(tmp_path / "a") == results(tmp_path / "b") and len(results(tmp_path / "a")) == 2


def test_a_run_that_fails_ends_the_others_with_their_states(folder, tmp_path, monkeypatch, capsys):
    told = processes._Worker.wait

    def late(self):
        deadline = time.monotonic() + 90
        while self.part.config.model.system == "mf" and not begun(tmp_path / "x", "lightgcn"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return told(self)

    monkeypatch.setattr(processes._Worker, "wait", late)
    (tmp_path / "wild.toml").write_text("[optimiser]\nlr = 1e30\n")
    asked = [
        "--systems",
        "mf,lightgcn",
        "--seeds",
        "1",
        "--epochs",
        "3000",
        "--jobs",
        "2",
        "--preset",
        f"mf={tmp_path / 'wild.toml'}",
    ]
    assert main(command(folder, tmp_path / "x", *asked)) == 1
    line = said(capsys)
    assert line.startswith("mmssl-fast: MF-BPR, seed 0: loss term 'bpr' became ") and "optimiser.lr" in line
    (other,) = (tmp_path / "x" / "runs").glob("lightgcn-*")
    assert not (other / "result.json").exists() and list((other / "state").glob("*.json"))


def test_a_killed_run_is_named(folder, tmp_path, monkeypatch, capsys):
    told = processes._Worker.is_running

    def killing(self):
        if self.part.config.model.system == "mf":
            self.process.kill()
        return told(self)

    monkeypatch.setattr(processes._Worker, "is_running", killing)
    asked = command(folder, tmp_path, "--systems", "mf,popularity", "--seeds", "1", "--epochs", "2", "--jobs", "2")
    assert main(asked) == 1
    assert "MF-BPR, seed 0: was killed, probably because the memory ran out; use fewer --jobs" in said(capsys)
    monkeypatch.setattr(processes._Worker, "is_running", told)
    assert main(asked) == 0 and len(results(tmp_path)) == 2


def test_runs_end_with_the_process_that_began_them(folder, tmp_path):
    asked = command(folder, tmp_path, "--systems", "lightgcn", "--seeds", "2", "--epochs", "5000", "--jobs", "2")
    parent = subprocess.Popen([script(), *asked])
    try:
        until(lambda: len(begun(tmp_path, "lightgcn")) == 2, lambda: parent.poll() is None)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: len(list(tmp_path.glob("runs/*/state/*.json"))) >= 2)
    until(lambda: all(nobody_has(run) for run in tmp_path.glob("runs/*")))
    assert not list(tmp_path.glob("runs/*/result.json"))


def test_an_unfinished_folder_is_completed(folder, tmp_path):
    """One that a kill left between its first files."""
    asked = command(folder, tmp_path, "--systems", "popularity", "--seeds", "2", "--jobs", "2")
    assert main(asked) == 0
    (first, _) = (tmp_path / "runs").iterdir()
    before = results(tmp_path)
    for name in ("result.json", "metrics.jsonl"):
        (first / name).unlink()
    assert main(asked) == 0 and results(tmp_path) == before


def test_a_terminal_shows_one_bar_a_run(folder, tmp_path):
    """And nothing that the processes draw themselves; nor is anything imported from the current folder."""
    (tmp_path / "torch.py").write_text("raise SystemExit('this is not torch')")
    asked = command(
        folder, tmp_path / "x", "--systems", "mf,lightgcn", "--seeds", "1", "--epochs", "100", "--jobs", "2"
    )
    master, slave = pty.openpty()
    ended = subprocess.Popen([script(), *asked], stderr=slave, stdout=subprocess.DEVNULL, cwd=tmp_path)
    os.close(slave)
    drawn = b""
    try:
        while part := os.read(master, 1 << 16):
            drawn += part
    except OSError:  # how a terminal says that its other end has closed
        pass
    os.close(master)
    assert ended.wait(90) == 0
    text = drawn.decode()
    assert "LightGCN, seed 0 epoch " in text and "best 0." in text
    assert "bpr" not in text and "LightGCN epoch" not in text  # as the bar of a run alone has it


# --- parts -----------------------------------------------------------------------------------------------------------
def part(folder, call, **arguments):
    """A part that does what process_parts has by this name."""
    config = load(None, {"data.path": (str(folder), "test"), "train.threads": (1, "test")})
    title = arguments.get("own", call)
    return processes.Part(title, f"process_parts:{call}", config, arguments)


def test_parts_are_at_once_and_in_order(folder, tmp_path):
    data, seen = load_data(str(folder)), []
    pairs = [("a", "b"), ("b", "a"), ("c", "b")]
    parts = [part(folder, "meet", place=str(tmp_path), own=own, other=other) for own, other in pairs]
    processes.run_parallel(parts, data, 2, "parts", seen.append)
    assert sorted(seen) == [0, 1, 2] and seen[-1] == 2


def test_what_is_raised_in_the_parent_lets_the_others_leave(folder, tmp_path):
    """SystemExit: what a pipe that nobody reads any more comes to."""
    parts = [
        part(folder, "leave_when_asked", place=str(tmp_path), own="long"),
        part(folder, "end", place=str(tmp_path), own="long"),
    ]

    def raising(_):
        raise SystemExit("by the caller")

    with pytest.raises(SystemExit, match="by the caller"):
        processes.run_parallel(parts, load_data(str(folder)), 2, "parts", raising)
    assert (tmp_path / "long.left").exists()


def test_a_process_that_cannot_be_begun_lets_the_others_leave(folder, tmp_path, monkeypatch):
    begin, begun = subprocess.Popen, []

    def failing(*args, **options):
        if begun:
            process_parts.wait_for(tmp_path / "long")
            raise OSError(11, "Resource temporarily unavailable")
        begun.append(begin(*args, **options))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", failing)
    parts = [part(folder, "leave_when_asked", place=str(tmp_path), own=own) for own in ("long", "next")]
    with pytest.raises(InputError, match=r"next: cannot start a process .Resource temporarily unavailable.; use fewer"):
        processes.run_parallel(parts, load_data(str(folder)), 2, "parts", print)
    assert (tmp_path / "long.left").exists() and begun[0].poll() is not None


def test_what_ends_a_part_is_one_line(folder, tmp_path, capfd):
    """A file that is not there, a mistake of ours, more than a pipe holds on stdout; another fingerprint."""
    data = load_data(str(folder))

    parts = [
        part(folder, "missing_file", place=str(tmp_path)),
        part(folder, "mistake", place=str(tmp_path)),
        part(folder, "bits", count=1 << 18),
        part(folder, "bits", count=1),
    ]
    begun = [processes._Worker(at, one, data.fingerprint if at < 3 else "0" * 64) for at, one in enumerate(parts)]
    until(lambda: not any(one.is_running() for one in begun))
    missing, mistake, none, changed = [one.wait() for one in begun]
    path = tmp_path / "nothing"
    assert str(missing) == f"missing_file: {path}: No such file or directory; check the name and its permissions"
    assert str(mistake) == "mistake: the worker process failed with exit code 1; see its output above"
    kinds = [InputError, WorkerFailed, type(None), InputError]
    assert [type(one) for one in (missing, mistake, none, changed)] == kinds
    printed = capfd.readouterr().err
    assert "a line on stdout" in printed and "ZeroDivisionError: by mistake" in printed
    assert "has changed since the command started; repeat it" in str(changed)


def test_runs_that_do_not_fit_together_are_refused(folder, tmp_path, monkeypatch, capsys):
    """Three at once of what fits twice, as the message says; two are let through."""
    data, memory = load_data(str(folder)), processes.budget
    config = load(None, {"model.system": ("lightgcn", "test"), "model.dim": (8, "test"), "train.batch": (64, "test")})
    each = processes.PROCESS + memory.needed(data, config)
    monkeypatch.setattr(processes.free, "free_memory", lambda device: int(2.5 * each / 0.8))
    asked = ["--systems", "lightgcn", "--seeds", "3", "--epochs", "1"]
    assert main(command(folder, tmp_path, *asked, "--jobs", "3")) == 2
    line = said(capsys)
    assert "--jobs 3: 3 runs at once need about" in line and line.endswith("use --jobs 2")
    assert not list(tmp_path.glob("runs/*"))
    processes.refuse_what_cannot_fit([config] * 3, data, 2, "runs")
    processes.refuse_what_cannot_fit([config], data, 3, "runs")
    with pytest.raises(InputError, match=r"--jobs 4: 3 trials at once .* use --jobs 2"):
        processes.refuse_what_cannot_fit([config] * 3, data, 4, "trials")


def test_threads_are_shared(folder, tmp_path, monkeypatch, threads):
    asked = []
    threads(8)
    monkeypatch.setattr(targets, "produce", lambda what, data, say, jobs: asked.append((what, jobs)) or what.out)
    (tmp_path / "table2.md").touch()
    plain = [one for one in command(folder, tmp_path / "table2.md", "--systems", "mf") if one not in ("--threads", "1")]
    for jobs, seeds, number, expected in (
        (3, 9, 0, (3, 2)),
        (20, 30, 0, (20, 1)),
        (20, 2, 0, (2, 4)),
        (3, 9, 5, (3, 5)),
        (1, 9, 0, (1, 0)),
    ):
        more = ["--jobs", str(jobs), "--seeds", str(seeds), "--threads", str(number)]
        assert main([*plain, *more]) == 0
        assert (asked[-1][1], asked[-1][0].base["mf"].train.threads) == expected, more


def test_makespan():
    assert targets.makespan([3, 1, 1, 1, 2], 1) == 8
    assert targets.makespan([3, 1, 1, 1, 2], 2) == 5
    assert targets.makespan([3, 1], 5) == 3
    assert targets.makespan([], 2) == 0 and targets.makespan([1], 10**12) == 1


def test_dry_run_says_for_how_long(folder, tmp_path, capsys):
    asked = command(folder, tmp_path / "x", "--systems", "popularity", "--seeds", "2", "--dry-run", "--jobs", "2")
    assert main(asked) == 0
    assert "2 runs, 2 at a time, at most 0.00 hours" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


# --- trials ----------------------------------------------------------------------------------------------------------
def search(folder, out, *more):
    space = out.parent / "space.toml"
    space.write_text("[optimiser]\nlr = { low = 1e-3, high = 1e-1, log = true }\n")
    return ["tune", "--data", str(folder), "--out", str(out), *TINY, "--system", "mf", "--space", str(space), *more]


def held(folder, out, epochs=2):
    """The search that lies there, its trials by number."""
    values = {
        "model.system": ("mf", "test"),
        "model.dim": (8, "test"),
        "train.batch": (64, "test"),
        "train.patience": (0, "test"),
        "train.threads": (1, "test"),
        "train.epochs": (epochs, "test"),
        "data.path": (str(folder), "test"),
    }
    config = load(None, values).changed("train", compare="no")
    space = read_space(out.parent / "space.toml", config)
    return tune.Search(out, load_data(str(folder)), config, space, seeds=1, prune=True).study.trials


def test_trials_at_once(folder, tmp_path, monkeypatch, capsys):
    """Each is taken once, with its own draw; the search goes on alone, and at once again, where it was."""
    monkeypatch.chdir(tmp_path)
    out = Path("tuned")  # Optuna's lock would be a link to nowhere there
    assert main(search(folder, out, "--epochs", "2", "--trials", "2", "--jobs", "2")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["1/2", "2/2"]
    assert sorted(line.partition("trial ")[2][0] for line in lines) == ["0", "1"]
    trials = held(folder, out)
    assert len({trial.params["optimiser.lr"] for trial in trials}) == 2
    assert trials[0].params["optimiser.lr"] == 3e-3  # the configuration that the search starts from
    for trial in trials:
        assert trial.user_attrs["epochs"] == [2] and trial.value == trial.user_attrs["recall@20"][0]
    assert main(search(folder, out, "--epochs", "2", "--trials", "3")) == 0
    assert main(search(folder, out, "--epochs", "2", "--trials", "5", "--jobs", "2")) == 0
    again = held(folder, out)
    assert [one.params for one in again[:2]] == [one.params for one in trials] and len(again) == 5
    assert len({trial.params["optimiser.lr"] for trial in again}) == 5
    assert (out / "trials.md").read_text().count("| complete |") == 5  # none is pruned before five have ended


def test_trials_at_once_that_are_interrupted_are_taken_again(folder, tmp_path, monkeypatch, capsys):
    out, sent = tmp_path / "tuned", []
    shown = processes.progress.WorkerProgress.show
    asked = search(folder, out, "--epochs", "60", "--trials", "2", "--jobs", "2", "--no-prune")

    def interrupting(self, title, progress):
        shown(self, title, progress)
        lines = [json.loads(line) for line in (out / "study.log").read_text().splitlines() if line.endswith("}")]
        if any("intermediate_value" in one for one in lines) and not sent:
            sent.append(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(processes, "POLL", 0.02)
    monkeypatch.setattr(processes.progress.WorkerProgress, "show", interrupting)
    assert main(asked) == 130
    assert said(capsys) == "mmssl-fast: interrupted with 2 of 2 trials left; repeat the command to continue"
    assert not (out / "study.log.lock").is_symlink()
    assert main(asked) == 0
    trials = {
        state: [one for one in held(folder, out, epochs=60) if one.state.name == state]
        for state in ("FAIL", "COMPLETE")
    }
    rates = {state: {one.params["optimiser.lr"] for one in found} for state, found in trials.items()}
    assert len(rates["COMPLETE"]) == len(trials["COMPLETE"]) == 2 and 1 <= len(rates["FAIL"]) <= 2
    assert rates["FAIL"] <= rates["COMPLETE"]
    assert all(one.user_attrs["epochs"] == [60] for one in trials["COMPLETE"])
