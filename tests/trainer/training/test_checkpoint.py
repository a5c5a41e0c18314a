"""States of a run: interrupted and resumed is the same as uninterrupted."""

import json
import os

import numpy as np
import pytest
import torch
from checkpoint_cases import EachStep, assert_same, configured, interrupted, resumed
from mmssl_trainer import systems
from mmssl_trainer.errors import InputError, NonFiniteLoss
from mmssl_trainer.files import write_tensors, write_text
from mmssl_trainer.systems.lightgcn import LightGCNSystem
from mmssl_trainer.training import state_file
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.loop import fit
from mmssl_trainer.training.progress import Fit, LossTable, Position
from plain_systems import TRAINED

from mmssl_fast import InteractionGraph


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
        ("mmssl", {"train__recompute": "on", "optimiser__first_layer_weight": "bfloat16"}),
        *((name, {}) for name in TRAINED if name not in ("mmssl", "lightgcn")),
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
