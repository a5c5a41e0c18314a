"""Memory that does not suffice: what is chosen by it, and a step that runs out of it."""

import json
import random
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from configurations import short
from mmssl_trainer import systems
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.errors import InputError, OutOfMemory, is_out_of_memory
from mmssl_trainer.memory import budget as memory
from mmssl_trainer.memory import retry
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.systems.lightgcn import LightGCNSystem
from mmssl_trainer.systems.mmssl import MMSSLSystem
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.loop import fit
from plain_systems import TRAINED
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl_fast import tiles
from mmssl_fast.nn.half_linear import half_linear


def configured(**values):
    return short(defaults={"model.hidden": [6, 4]}, **values)


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8, "text": 6})


@pytest.fixture(scope="module")
def whole(data):
    return fit(data, configured())


# --- a step that runs out of memory ----------------------------------------------------------------------------------
FAILURES = [
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    MemoryError,
]


class Failing(TorchDispatchMode):
    """Every op goes through here; the one at place `at` fails."""

    def __init__(self, at=-1, failure=MemoryError):
        super().__init__()
        self.at, self.failure, self.seen = at, failure, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        if self.seen == self.at:
            raise self.failure()
        return func(*args, **(kwargs or {}))


def short_of_memory(kind, at, place, times=1, failure=MemoryError):
    """A system that runs out of memory in step `at` (counted from 0), `times` times, after `place` of its ops."""

    class Short(kind):
        calls = left = 0

        def step(self, batch):
            if batch.step != at or Short.left >= times:
                return super().step(batch)
            Short.left += 1
            with Failing(place, failure) as mode:
                found = super().step(batch)
            raise AssertionError(f"the step has {mode.seen} ops, none of them failed: {found}")

    return Short()


def ops_of_a_step(kind, data, config):
    class Counted(kind):
        def step(self, batch):
            with Failing() as mode:
                found = super().step(batch)
            Counted.seen = mode.seen
            return found

    fit(data, config, system=Counted())
    return Counted.seen


@pytest.fixture(scope="module")
def length(data):
    return ops_of_a_step(MMSSLSystem, data, configured(train__epochs=1))


def assert_same(fitted, expected):
    assert torch.equal(fitted.users, expected.users) and torch.equal(fitted.items, expected.items)
    assert [record["losses"] for record in fitted.epochs] == [record["losses"] for record in expected.epochs]
    assert fitted.step == expected.step and fitted.best_epoch == expected.best_epoch


# At random, and: early, between the discriminator's update and the encoder's, in the last update.
PLACES = [random.Random(5).random(), 0.05, 0.6, 0.99]


@pytest.mark.parametrize("small", [0, retry.SMALL])
@pytest.mark.parametrize("place", PLACES)
def test_step_that_fails_once_leaves_no_trace(place, small, data, whole, length, monkeypatch):
    """Wherever in the step, with tensors copied (small) or only watched (0: then an earlier state is gone back to)."""
    monkeypatch.setattr(retry, "SMALL", small)
    failure = FAILURES[int(place * 1000) % 3]
    steps = data.train.nnz // 64 + 1
    system = short_of_memory(MMSSLSystem, steps + 2, 1 + int(place * length), failure=failure)
    fitted = fit(data, configured(), system=system)
    assert_same(fitted, whole)
    assert fitted.tile == tiles.TILE_ELEMENTS // 2


@pytest.mark.parametrize("small", [0, retry.SMALL])
@pytest.mark.parametrize("name", sorted({*TRAINED} - {"mmssl"}))
def test_step_of_any_system_may_fail(name, small, data, monkeypatch):
    """In the last update, with an epoch's own draws (views, neighbours) made already."""
    monkeypatch.setattr(retry, "SMALL", small)
    config, kind = configured(model__system=name), type(systems.create(name))
    place = int(0.95 * ops_of_a_step(kind, data, configured(model__system=name, train__epochs=1)))
    system = short_of_memory(kind, data.train.nnz // 64 + 3, place)
    assert_same(fit(data, config, system=system), fit(data, config))
    assert type(system).left == 1


@pytest.mark.parametrize("step, place", [(0, 0.1), (0, 0.97), (1, 0.5)])
def test_first_steps_may_fail_too(step, place, data, whole, length):
    """The first makes the optimisers' state: half-made, it is thrown away."""
    fitted = fit(data, configured(), system=short_of_memory(MMSSLSystem, step, int(place * length)))
    assert_same(fitted, whole)


@pytest.mark.parametrize("place", [0.2, 0.6, 0.99])
def test_going_back_to_a_state(place, data, whole, length, tmp_path, monkeypatch):
    """From the newest state, not the beginning; observers hear of it; the tile is in later states."""
    monkeypatch.setattr(retry, "SMALL", 0)
    steps = data.train.nnz // 64 + 1
    config = configured(train__checkpoint_every=1)
    checkpoints = Checkpoints(tmp_path, data, config)
    opened = []
    monkeypatch.setattr(Checkpoints, "open", lambda self, original=Checkpoints.open: opened.append(1) or original(self))
    fitted = fit(
        data, config, system=short_of_memory(MMSSLSystem, steps + 2, int(place * length)), checkpoints=checkpoints
    )
    assert_same(fitted, whole)
    states = sorted((tmp_path / "state").glob("*.json"))
    assert json.loads(states[-1].read_text())["state"]["tile"] == tiles.TILE_ELEMENTS // 2
    assert len(opened) <= 1 and (place == 0.2 or opened)


@pytest.mark.parametrize("small", [0, retry.SMALL])
@pytest.mark.parametrize("kind", [MMSSLSystem, LightGCNSystem])
def test_step_that_fails_twice_ends_the_run_with_the_plan(kind, small, data, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "SMALL", small)
    config = configured(train__checkpoint_every=1, model__system="mmssl" if kind is MMSSLSystem else "lightgcn")
    steps = data.train.nnz // 64 + 1
    checkpoints = Checkpoints(tmp_path, data, config)
    entries = tiles.TILE_ELEMENTS
    with pytest.raises(OutOfMemory) as caught:
        fit(data, config, system=short_of_memory(kind, steps + 2, 3, 2, FAILURES[0]), checkpoints=checkpoints)
    said = str(caught.value)
    assert said.startswith(f"out of memory in epoch 2, step 3 of {steps}, with item tiles of {entries} entries and of ")
    assert "can't allocate memory" in said and re.search(r"the estimate was [\d.]+ .iB, largest parts: \w", said)
    again = Checkpoints(tmp_path, data, config)
    assert again.open() and again.last == "after epoch 1"
    assert_same(fit(data, config, checkpoints=again), fit(data, config))


def test_steps_that_fail_in_turn_do_not_go_back_for_ever(data, monkeypatch):
    """A late step, after it a former one, then the late one again: it had its second time."""
    monkeypatch.setattr(retry, "SMALL", 0)
    order = [7, 3] * 9

    class InTurn(MMSSLSystem):
        def step(self, batch):
            found = super().step(batch)
            if order and batch.step == order[0]:
                order.pop(0)
                raise MemoryError
            return found

    half = tiles.TILE_ELEMENTS // 2
    with pytest.raises(OutOfMemory, match=f"of {2 * half} entries and of {half}: MemoryError"):
        fit(data, configured(), system=InTurn())
    assert len(order) == 15


def test_other_errors_are_not_retried(data):
    broken = short_of_memory(MMSSLSystem, 3, 5, failure=lambda: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(data, configured(), system=broken)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_command_ends_in_one_line(tmp_path, monkeypatch, capsys):
    folder = write_plain(synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8}), tmp_path / "data")
    monkeypatch.setattr("mmssl_trainer.training.loop.create", lambda name: short_of_memory(MMSSLSystem, 12, 40, 2))
    arguments = [
        "--batch",
        "64",
        "--threads",
        "1",
        "--epochs",
        "9",
        "--set",
        "model.dim=8",
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.sample_over=interactions",
        "--memory",
        "1GiB",
    ]
    assert main(["train", "--data", str(folder), "--out", str(tmp_path / "run"), *arguments]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("mmssl-fast: out of memory in epoch ") and "the last checkpoint, written " in said[-1]
    assert [line for line in said if line.startswith("note: memory: estimated ")] and "Traceback" not in "".join(said)
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


# --- what tiles and chunks change ------------------------------------------------------------------------------------
@pytest.mark.parametrize("values", [{}, {"loss__gumbel_tau": 0.5}, {"loss__gumbel_tau": 0.5, "loss__row_l2": False}])
def test_any_tile_gives_the_same_to_rounding(values, data):
    """At a temperature that needs dense noise, where sums run over tiles, as at the default."""
    runs = [fit(data, configured(train__tile=tile, **values)) for tile in (1 << 20, 64, 1)]
    for run in runs[1:]:
        for mine, first in zip(run.epochs, runs[0].epochs, strict=True):
            assert mine["losses"] == pytest.approx(first["losses"], rel=2e-3, abs=1e-5)
        torch.testing.assert_close(run.epochs[0]["losses"], runs[0].epochs[0]["losses"], rtol=1e-4, atol=1e-6)


def test_tiles_are_put_back():
    with pytest.raises(KeyError), tiles.tiles_of(100):
        assert tiles.tile_elements() == 100 and len(tiles.item_tiles(1, 1000)) == 10
        raise KeyError
    assert tiles.tile_elements() == 1 << 20
    with pytest.raises(ValueError, match="must be at least 1"), tiles.tiles_of(0):
        pass


def test_evaluation_that_runs_out_of_memory_ranks_half_as_many(data, whole, monkeypatch):
    from mmssl_trainer.ranking import order

    asked = []

    def short(u, v, k, **more):
        asked.append(len(u))
        if len(u) > 19:
            raise MemoryError
        return topk(u, v, k, **more)

    topk = order.cosine_topk
    expected = split_metrics(whole.users, whole.items, data, "val", [20], batch=64)
    monkeypatch.setattr(order, "cosine_topk", short)
    found = split_metrics(whole.users, whole.items, data, "val", [20], batch=39)
    assert found == pytest.approx(expected, rel=1e-12) and max(asked[1:]) == 19
    with pytest.raises(MemoryError):
        split_metrics(whole.users, whole.items, data, "val", [20], batch=400)


def test_features_in_half_precision():
    """The same value and gradient as of the wide copy, whatever block it is cut into; features rounded to 11 bits."""
    x, bias = torch.randn(700, 3000).half(), torch.randn(5, requires_grad=True)
    weight = torch.randn(5, 3000, requires_grad=True)
    mine, wide = half_linear(x, weight, bias), torch.nn.functional.linear(x.float(), weight, bias)
    torch.testing.assert_close(mine, wide)
    grad = torch.randn_like(wide)
    for ours, theirs in zip(
        torch.autograd.grad(mine, (weight, bias), grad), torch.autograd.grad(wide, (weight, bias), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_run_with_features_in_half_precision(data, whole):
    system = MMSSLSystem()
    fitted = fit(data, configured(train__feature_dtype="float16"), system=system)
    assert {buffer.dtype for name, buffer in system.model.named_buffers() if name.startswith("features")} == {
        torch.float16
    }
    assert fitted.epochs[0]["losses"] == pytest.approx(whole.epochs[0]["losses"], rel=1e-2)
    assert fitted.epochs[0]["losses"] != whole.epochs[0]["losses"]


def test_features_beyond_half_precision_are_refused(data):
    large = type(data)(**{**vars(data), "features": {"image": data.features["image"] * np.float32(1e6)}})
    with pytest.raises(InputError, match=r"'image' are too large for torch.float16.*train.feature_dtype"):
        fit(large, configured(train__feature_dtype="float16", model__standardise=False))


def test_resumed_run_goes_on_with_what_was_chosen(tmp_path, capsys, monkeypatch):
    folder = write_plain(synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8}), tmp_path / "data")
    arguments = ["--batch", "64", "--threads", "1", "--epochs", "2", "--set", "model.dim=8"]
    monkeypatch.setattr(memory, "_allowed", memory.needed)
    assert main(["train", "--data", str(folder), "--out", str(tmp_path / "run"), *arguments]) == 0
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.undo()
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert f"item tiles of {retry.LEAST_TILE} entries, 64 users" in capsys.readouterr().err
    assert f"tile = {retry.LEAST_TILE}\n" in (tmp_path / "run" / "config.toml").read_text()


# --- a limit of the operating system's -------------------------------------------------------------------------------
@pytest.mark.slow
def test_real_limit_of_memory_is_one_line(tmp_path):
    """Under RLIMIT_AS, an allocation of a step that fails by itself, twice: exit code 1 and a line."""
    folder = write_plain(synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8}), tmp_path / "data")
    program = f"""
import resource, sys
import torch, torch._dynamo
import mmssl_trainer.training.loop, mmssl_trainer.runs.complete
from mmssl_trainer.cli.main import main
from mmssl_trainer.systems.mmssl import MMSSLSystem
learn = MMSSLSystem.step
def step(self, batch):
    if batch.step == 12:
        held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
        try:
            kept = torch.ones(10**9)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    return learn(self, batch)
MMSSLSystem.step = step
sys.exit(main(["train", "--data", {str(folder)!r}, "--out", {str(tmp_path / "run")!r}, "--batch", "64",
    "--threads", "1", "--epochs", "9", "--set", "model.dim=8", "--set", "train.checkpoint_every=1",
    "--set", "train.sample_over=interactions"]))
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "can't allocate memory" in done.stderr.splitlines()[-1], done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
