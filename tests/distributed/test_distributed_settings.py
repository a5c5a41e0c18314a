"""The section [distributed], and the threads of a resumed run."""

import json
import os

import pytest
import torch
from mmssl_trainer import configure, load_data
from mmssl_trainer.cli.main import main
from mmssl_trainer.errors import InputError
from mmssl_trainer.memory.sizes import sizes_of
from mmssl_trainer.systems import SYSTEMS, refuse_over_groups, rows_over_ranks
from mmssl_trainer.systems.sgl import SGLSystem
from mmssl_trainer.training import checkpoints, loop
from mmssl_trainer.training import ranks as together

from mmssl_fast import distributed
from mmssl_fast.distributed import ranks

SETTINGS = {"model.system": "lightgcn", "model.dim": 8, "train.epochs": 1, "train.threads": 1}


@pytest.mark.parametrize("every, steps", [(4, [4, 8]), (0, [])])
def test_losses_are_compared(monkeypatch, every, steps):
    compared = []
    monkeypatch.setattr(
        loop, "refuse_different_results", lambda values, what: compared.append((tuple(values.shape), what))
    )
    loop.fit(load_data(), configure(SETTINGS | {"distributed.check_every": every}))
    expected = [((1,), f"the losses of step {step} of epoch 1") for step in steps]
    assert compared == [*expected, ((9, 1), "the losses of epoch 1")]


def test_settings_reach_the_exchanges(monkeypatch):
    given = []
    monkeypatch.setattr(distributed, "started_together", lambda: True)
    monkeypatch.setattr(distributed, "start", lambda *arguments: given.append(arguments) or distributed.ONE)
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = configure({"distributed.timeout_minutes": 0.5, "distributed.wire": "bfloat16", "distributed.groups": 2})
    together.join("cpu", config.distributed)
    together.join()
    assert [one[1:] for one in given] == [(0.5, together.torch.bfloat16, 2), (10.0, None, 1)]
    assert sizes_of(load_data(), config).wire == 2 and sizes_of(load_data(), configure({})).wire == 4


@pytest.mark.parametrize("given, expected", [(None, "0"), ("1", "1")])
def test_backends_of_a_device(monkeypatch, given, expected):
    """On CUDA, the process has the device of its number, and sums in switches are off unless the user wants them."""
    devices = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("NCCL_NVLS_ENABLE", given or "")
    if given is None:
        monkeypatch.delenv("NCCL_NVLS_ENABLE")
    assert ranks._backend(torch.device("cpu")) == "cpu:gloo" and os.environ.get("NCCL_NVLS_ENABLE") == given
    assert ranks._backend(torch.device("cuda")) == "cpu:gloo,cuda:nccl"
    assert os.environ["NCCL_NVLS_ENABLE"] == expected and devices == [3]


@pytest.mark.parametrize(
    "world, settings, message",
    [
        ("", [], "distributed.groups = 3: needs several ranks; start them with --ranks or torchrun, or set it to 1"),
        ("4", [], "distributed.groups = 3: does not divide the 4 ranks; choose one of 1, 2, 4"),
        (
            "6",
            ["model.system=sgl"],
            "distributed.groups = 3: SGL needs the whole graph on every rank; set it to 1, or ",
        ),
    ],
)
def test_groups_that_cannot_be_formed(monkeypatch, capsys, tmp_path, world, settings, message):
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "start", lambda *arguments: distributed.Ranks(0, 6).divided(3))
    monkeypatch.delattr(SGLSystem, "over_groups")  # as of a system of another package
    settings = [part for one in ["distributed.groups=3", *settings] for part in ("--set", one)]
    assert main(["train", "--out", str(tmp_path / "run"), *settings]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("mmssl-fast: ")]
    assert line.startswith(f"mmssl-fast: {message}")
    assert not (tmp_path / "run").exists()


def test_a_system_that_needs_the_whole_graph(monkeypatch):
    monkeypatch.setattr(ranks, "_current", distributed.Ranks(0, 2).divided(2))
    able = "mmssl, popularity, mf, lightgcn, sgl, ncl"
    with pytest.raises(InputError, match=rf"^distributed.groups = 2: HCCF needs .* {able}$"):
        loop.graph_of(load_data(), "hccf")


def test_every_system_for_several_ranks_is_one_for_several_groups():
    for name in SYSTEMS:
        if rows_over_ranks(name) is not None:
            refuse_over_groups(name, 2)


@pytest.mark.parametrize(
    "key, value", [("timeout_minutes", 0.0), ("check_every", -1), ("groups", 0), ("wire", "float16")]
)
def test_a_wrong_value_is_refused(key, value):
    with pytest.raises(InputError, match=f"distributed.{key}"):
        configure({f"distributed.{key}": value})


def test_ranks_of_a_checkpoint(tmp_path):
    """From the newest one; 0 if it cannot be read, which opening it reports."""
    assert checkpoints.ranks_of_checkpoint(tmp_path) == 0
    state = tmp_path / "state"
    state.mkdir()
    (state / "0000000003.json").write_text("{}")
    assert checkpoints.ranks_of_checkpoint(tmp_path) == 1
    (state / "0000000004.0").mkdir()
    path = state / "0000000004.0" / "state.json"
    path.write_text(json.dumps({"state": {"tensors": {"ranks": 3}}}))
    assert checkpoints.ranks_of_checkpoint(tmp_path) == 3
    path.write_text("[]")
    assert checkpoints.ranks_of_checkpoint(tmp_path) == 0
