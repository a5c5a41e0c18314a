"""States of a run: interrupted and resumed is the same as uninterrupted, and nothing that happens loses one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_runs import begin, catalogue, same_model
from mmssl_trainer import systems
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError, Interrupted, NonFiniteLoss
from mmssl_trainer.files import write_tensors, write_text
from mmssl_trainer.systems.lightgcn import LightGCNSystem
from mmssl_trainer.training import checkpoints as checkpoint
from mmssl_trainer.training import state_file
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.loop import fit
from mmssl_trainer.training.progress import Fit, LossTable, NullObserver, Position
from mmssl_trainer.training.signals import defer_signals

from mmssl_fast import InteractionGraph

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=60, n_items=40, modalities={"image": 8, "text": 6})


def configured(system="mmssl", **values):
    chosen = {
        "model.system": system,
        "model.dim": 8,
        "train.epochs": 4,
        "train.batch": 128,
        "train.threads": 1,
        "train.sample_over": "interactions",
        "evaluate.ks": [20],
        "train.checkpoint_minutes": 0.0,
    }
    chosen |= {name.replace("__", "."): value for name, value in values.items()}
    return load(None, {name: (value, "test") for name, value in chosen.items()})


class EachStep(Checkpoints):
    """Writes a state after every step, whatever it costs."""

    def _due(self, position, epoch_ended):
        return True


class StopAt(NullObserver):
    """Asks for the end after a step, as a signal would."""

    def __init__(self, stop, epoch, step):
        self.stop, self.at = stop, (epoch, step)

    def stepped(self, epoch, step, losses):
        if (epoch, step) == self.at:
            self.stop.received = signal.SIGTERM


def interrupted(run, data, config, epoch, step):
    """Train until after that step; the states are in `run`."""
    run.mkdir(exist_ok=True)
    checkpoints = Checkpoints(run, data, config)
    checkpoints.open()
    with pytest.raises(Interrupted, match=rf"--resume {run}") as caught:
        fit(data, config, StopAt(checkpoints.stop, epoch, step), checkpoints=checkpoints)
    assert caught.value.signal == signal.SIGTERM


def resumed(run, data, config):
    checkpoints = Checkpoints(run, data, config)
    assert checkpoints.open()
    return fit(data, config, checkpoints=checkpoints)


def assert_same(fitted, whole):
    assert torch.equal(fitted.users, whole.users) and torch.equal(fitted.items, whole.items)
    assert fitted.parameters.keys() == whole.parameters.keys()
    for name, tensor in whole.parameters.items():
        assert torch.equal(fitted.parameters[name], tensor), name
    assert [(one["epoch"], one["losses"], one.get("val")) for one in fitted.epochs] == [
        (one["epoch"], one["losses"], one.get("val")) for one in whole.epochs
    ]
    for name in ("step", "stale", "best", "best_epoch", "val"):
        assert getattr(fitted, name) == getattr(whole, name), name


# --- one file --------------------------------------------------------------------------------------------------------
def test_file_is_flushed_then_renamed_then_its_folder_is_flushed(tmp_path, monkeypatch):
    """In this order a loss of power leaves the old file or the new one."""
    target, done = tmp_path / "one.json", []

    def noted(name, call):
        def noting(*arguments):
            place = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "flush" else str(arguments[0])
            done.append((name, place.rsplit("/", 1)[-1].split(".json")[0]))
            return call(*arguments)

        return noting

    monkeypatch.setattr(os, "fsync", noted("flush", os.fsync))
    monkeypatch.setattr(os, "replace", noted("rename", os.replace))
    write_text(target, "whole")
    assert done == [("flush", ".one"), ("rename", ".one"), ("flush", tmp_path.name)]
    assert target.read_text() == "whole" and os.listdir(tmp_path) == ["one.json"]


# --- the same bits ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "system, values",
    [
        ("mmssl", {}),
        ("mmssl", {"train__refresh_every": 2, "train__validate_every": 3, "train__discriminator_steps": 2}),
        ("lightgcn", {}),
        ("lightgcn", {"train__sample_over": "users", "train__patience": 3}),
        ("mmssl", {"train__feature_dtype": "float16", "optimiser__first_layer_moments": "bfloat16"}),
        *((name, {}) for name in systems.SYSTEMS if name not in ("mmssl", "lightgcn", "popularity", "svd")),
        ("ncl", {"ncl__warm_up": 1, "ncl__clusters": 5}),
    ],
)
def test_interrupted_and_uninterrupted_runs_agree_to_the_bit(data, tmp_path, system, values):
    """Ended twice: within an epoch, and after the last step of one (before its validation)."""
    config = configured(system, **values)
    whole = fit(data, config)
    steps = data.train.nnz // 128 + 1
    interrupted(tmp_path, data, config, 2, 2)
    interrupted(tmp_path, data, config, 3, steps)
    torch.rand(5)
    assert_same(resumed(tmp_path, data, config), whole)


def test_state_at_the_end_of_an_epoch(data, tmp_path):
    config = configured(train__checkpoint_every=2, train__epochs=3)
    whole = fit(data, config, checkpoints=Checkpoints(tmp_path, data, config))
    states = sorted(path.name for path in (tmp_path / "state").iterdir())
    steps = data.train.nnz // 128 + 1
    assert states == [f"{n * steps:010d}.{end}" for n in (2, 3) for end in ("json", "safetensors")]
    assert json.loads((tmp_path / "state" / states[0]).read_text())["state"]["where"] == "after epoch 2"
    assert_same(resumed(tmp_path, data, config), whole)


def test_last_two_are_kept_and_leftovers_of_a_killed_process_go(data, tmp_path):
    config = configured("lightgcn", train__epochs=2)
    (tmp_path / "state").mkdir()
    for name in (".0000000001.json.77.tmp", "0000000003.safetensors", "notes.txt", "0000000001.json.bak"):
        (tmp_path / "state" / name).write_text("x")
    fit(data, config, checkpoints=EachStep(tmp_path, data, config))
    last = (data.train.nnz // 128 + 2) * 2 - 1  # the first epoch ends with a state more
    there = {path.name for path in (tmp_path / "state").iterdir()}
    states = {f"{step:010d}.{end}" for step in (last - 1, last) for end in ("json", "safetensors")}
    assert there == {*states, "notes.txt", "0000000001.json.bak"}
    state_file.remove(tmp_path / "state")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"notes.txt", "0000000001.json.bak"}


def test_states_are_no_oftener_than_twenty_times_what_they_cost(data, tmp_path):
    checkpoints = Checkpoints(tmp_path, data, configured(train__checkpoint_minutes=1e-9))
    assert checkpoints._due(None, False)
    checkpoints.took = 100.0
    assert not checkpoints._due(None, False)


def test_optimiser_state_keeps_its_memory_order(data, tmp_path):
    """Adam's moments of an item-major weight come back item-major: sums in another order could round differently."""
    config = configured()
    interrupted(tmp_path, data, config, 1, 2)
    system = systems.create("mmssl")
    system.build(data, InteractionGraph.from_scipy(data.train), config)
    fitted = Fit(*system.embeddings(), {})
    checkpoints = Checkpoints(tmp_path, data, config)
    checkpoints.open()
    checkpoints.restore(system, fitted, Position(1, LossTable(9, torch.device("cpu"))))
    weight = system.discriminator.linear.weight
    assert weight.mT.is_contiguous()
    assert system.optimisers["first_layer"].state[weight]["exp_avg"].stride() == weight.stride()


# --- signals and kills -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return catalogue(tmp_path_factory.mktemp("catalogue") / "data")


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An uninterrupted run of six epochs."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(begin(folder, out, "--epochs", "6")) == 0
    return out


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


def interrupted_at(monkeypatch, step):
    """As by SIGINT, after that step."""
    stopped = Checkpoints.visit

    def visit(self, system, fitted, position, epoch_ended=False):
        if fitted.step == step:
            self.stop.received = signal.SIGINT
        stopped(self, system, fitted, position, epoch_ended)

    monkeypatch.setattr(Checkpoints, "visit", visit)


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


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["baseline", "test"])
def test_signal_outside_training_names_what_goes_on(folder, tmp_path, monkeypatch, capsys, number, code, when):
    """While a baseline is fitted beside, and in the last evaluation."""
    from mmssl_trainer import ranking as evaluate
    from mmssl_trainer.cli import train as command

    run, before = tmp_path / "run", signal.getsignal(number)
    fit_and_test, split_metrics = command.fit_and_test, evaluate.split_metrics

    def fitted(dataset, config, name, *own):
        if when == "baseline" and not own:
            signal.raise_signal(number)
        return fit_and_test(dataset, config, name, *own)

    def evaluated(users, items, dataset, split, *how):
        if when == split:
            signal.raise_signal(number)
        return split_metrics(users, items, dataset, split, *how)

    monkeypatch.setattr(command, "fit_and_test", fitted)
    monkeypatch.setattr(evaluate, "split_metrics", evaluated)
    assert main(begin(folder, run, "--epochs", "1", *(["--compare"] if when == "baseline" else []))) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"mmssl-fast: interrupted; to resume: mmssl-fast train --resume {run}"
    assert not (run / "result.json").exists() and signal.getsignal(number) is before
    monkeypatch.undo()
    assert main(["train", "--resume", str(run)]) == 0 and (run / "result.json").exists()


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


# --- what goes wrong with the disk -----------------------------------------------------------------------------------
def test_full_disk_is_a_line_and_the_state_before_stays(data, tmp_path, monkeypatch):
    config = configured(train__checkpoint_every=1)
    whole = fit(data, config)
    writes = []

    def full(path, tensors, **advice):
        writes.append(path)
        if len(writes) == 3:
            monkeypatch.setattr("safetensors.torch.save_file", _no_space)
        write_tensors(path, tensors, **advice)

    monkeypatch.setattr(state_file, "write_tensors", full)
    with pytest.raises(
        InputError,
        match=r"No space left on device.*checkpoint written after epoch 2 is kept; free some disk space.*--resume",
    ):
        fit(data, config, checkpoints=Checkpoints(tmp_path, data, config))
    monkeypatch.undo()
    assert len(list((tmp_path / "state").iterdir())) == 4
    assert_same(resumed(tmp_path, data, config), whole)


def test_second_state_of_a_step_leaves_the_first_alone(data, tmp_path, monkeypatch):
    """The last step's state and the epoch's: where the disk is full between the two files of the second, the first can
    be read, with its own checksum."""
    config = configured()
    first = data.train.nnz // 128 + 1
    wrote = []

    def full(path, text, **advice):
        wrote.append(path)
        if len(wrote) == first + 1:
            raise InputError(f"{path}: cannot be written (No space left on device)")
        write_text(path, text, **advice)

    monkeypatch.setattr(state_file, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        fit(data, config, checkpoints=EachStep(tmp_path, data, config))
    monkeypatch.undo()
    assert state_file.read(state_file.newest(tmp_path / "state")).body["step"] == first
    assert_same(resumed(tmp_path, data, config), fit(data, config))


def _no_space(tensors, path, metadata=None):
    path.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_state_folder_that_cannot_be_written(data, tmp_path):
    config = configured(train__checkpoint_every=1)
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InputError, match=r"state: cannot be written .*there is no earlier checkpoint"):
        fit(data, config, checkpoints=Checkpoints(tmp_path, data, config))
    (tmp_path / "state").unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is a link"):
        fit(data, config, checkpoints=Checkpoints(tmp_path, data, config))
    assert not list((tmp_path / "elsewhere").iterdir())


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run stopped twice, so that two states are there."""
    run = tmp_path_factory.mktemp("stopped")
    for step in (1, 2):
        interrupted(run, data, configured(), 2, step)
    return run


@pytest.fixture
def copied(stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def refused(run, data, config, part):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=part) as caught:
        Checkpoints(run, data, config).open()
    assert str(caught.value).startswith(str(run)) and "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_other_data_is_refused(data, copied):
    refused(
        copied,
        synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 8, "text": 6}),
        configured(),
        f"fingerprint was {data.fingerprint[:16]}, is ",
    )


@pytest.mark.parametrize(
    "values, part",
    [
        ({"train__seed": 5}, r"train\.seed was 0 when the run was started, but is 5 now"),
        ({"train__epochs": 3}, r"train\.epochs was 4 when the run was started, but is 3 now"),  # more are allowed
        ({"model__hidden": [3, 4]}, r"model\.hidden was \[\] .* is \[3, 4\] now"),
        (
            {"system": "lightgcn", "train__epochs": 3},
            r"model\.system was 'mmssl' .*, but is 'lightgcn' now \(and 1 more",
        ),
    ],
)
def test_other_configuration_is_refused(data, copied, values, part):
    refused(copied, data, configured(**values), part)


def test_where_and_how_often_may_differ(data, copied):
    moved = configured(data__path="/elsewhere", train__checkpoint_every=7, train__threads=2)
    checkpoints = Checkpoints(copied, data, moved)
    assert checkpoints.open() and any("number of threads changes from 1 to 2" in note for note in checkpoints.notes())


DAMAGES = {
    "tensors cut": ("safetensors", lambda content: content[:-9], "bytes instead of"),
    "tensors empty": ("safetensors", lambda content: b"", "bytes instead of"),
    "a bit of a tensor": ("safetensors", lambda content: content[:-9] + b"\x55" + content[-8:], "sha256 is wrong"),
    "a bit of a header": ("safetensors", lambda content: content[:40] + b"\x55" + content[41:], "sha256 is wrong"),
    "JSON cut": ("json", lambda content: content[:-40], "truncated"),
    "JSON empty": ("json", lambda content: b"", "truncated"),
    "JSON of another kind": ("json", lambda content: b"[1, 2]", "truncated"),
    "not text": ("json", lambda content: b"\xff" + content, "cannot be read"),
    "deep": ("json", lambda content: b"[" * 100_000, "truncated"),
    "another number": ("json", lambda content: content.replace(b'"stale": 0', b'"stale": 7'), "sha256 is wrong"),
    "another format": (
        "json",
        lambda content: state_file._with_checksum(json.loads(content)["state"] | {"format": "9"}).encode(),
        "its format is '9'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_refused_and_the_one_before_can_be_used(data, copied, damage):
    end, change, part = DAMAGES[damage]
    newest = state_file.newest(copied / "state")
    victim = newest.with_suffix(f".{end}")
    victim.write_bytes(change(victim.read_bytes()))
    refused(copied, data, configured(), part)
    for one in (newest, newest.with_suffix(".safetensors")):
        one.unlink()
    assert resumed(copied, data, configured()).step == 4 * (data.train.nnz // 128 + 1)


def test_state_that_points_elsewhere_is_refused(data, copied):
    """A state names no path, and its files are not followed out of the run's folder."""
    newest = state_file.newest(copied / "state").with_suffix(".safetensors")
    shutil.move(newest, copied / "outside.safetensors")
    newest.symlink_to(copied / "outside.safetensors")
    refused(copied, data, configured(), "not a regular file")
    newest.unlink()
    refused(copied, data, configured(), "is missing")


def test_state_of_another_model_is_refused(data, copied):
    """What checksums cannot see: written by a version whose tensors are others."""
    path = state_file.newest(copied / "state")
    state = state_file.read(path)
    del state.tensors["system.model.user_embedding"]
    write_tensors(path.with_suffix(".safetensors"), state.tensors)
    state.body["tensors"] = {
        "bytes": path.with_suffix(".safetensors").stat().st_size,
        "sha256": state_file._file_digest(path.with_suffix(".safetensors")),
    }
    path.write_text(state_file._with_checksum(state.body))
    with pytest.raises(InputError, match="does not fit this version"):
        resumed(copied, data, configured())


@pytest.mark.parametrize(
    "name, change",
    [
        ("best.users", lambda tensor: tensor[:3]),
        ("best.items", lambda tensor: tensor.double()),
        ("optimiser.adamw.0.exp_avg", lambda tensor: tensor[:3]),
        ("optimiser.first_layer.0.exp_avg_sq", lambda tensor: tensor[:0]),
        ("optimiser.adam.0.step", lambda tensor: tensor.new_empty(0)),
    ],
)
def test_tensor_of_another_shape_is_refused(data, copied, name, change):
    path = state_file.newest(copied / "state")
    state = state_file.read(path)
    state.tensors[name] = change(state.tensors[name]).contiguous()
    write_tensors(path.with_suffix(".safetensors"), state.tensors)
    state.body["tensors"] = {
        "bytes": path.with_suffix(".safetensors").stat().st_size,
        "sha256": state_file._file_digest(path.with_suffix(".safetensors")),
    }
    path.write_text(state_file._with_checksum(state.body))
    with pytest.raises(InputError, match=r"cannot be used with this version \(.*(is|has) "):
        resumed(copied, data, configured())


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
        (["--resume", "/no/run"], ["/no/run", "config.toml"]),
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


# --- only sound states -----------------------------------------------------------------------------------------------
def test_state_is_never_written_with_what_is_not_finite(data, tmp_path):
    """The loss of the exploding step is finite, the parameters after it are not: the state before it stays."""
    config = configured("lightgcn", train__epochs=1)

    class Exploding(LightGCNSystem):
        def step(self, batch):
            terms = super().step(batch)
            if batch.step == 2:
                with torch.no_grad():
                    self.model.items[3, 1] = np.inf
            return terms

    with pytest.raises(NonFiniteLoss, match=r"system\.items became non-finite in epoch 1, at or before step 3 of"):
        fit(data, config, system=Exploding(), checkpoints=EachStep(tmp_path, data, config))
    assert state_file.newest(tmp_path / "state").stem == "0000000002"
    tensors = state_file.read(state_file.newest(tmp_path / "state")).tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())
