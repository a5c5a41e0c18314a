"""The section [distributed], and the threads of a resumed run."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from data_folders import one_line
from mmssl_trainer import configure, load_data
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.memory import budget
from mmssl_trainer.memory.plan import stages
from mmssl_trainer.memory.sizes import largest_group, sizes_of
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
    "key, value",
    [
        *[("timeout_minutes", 0.0), ("check_every", -1), ("wire", "float16")],
        *[("groups", value) for value in (0, -2, 1.5, True, "2", "many", "", [2])],
    ],
)
def test_a_wrong_value_is_refused(key, value):
    with pytest.raises(InputError, match=f"distributed.{key}"):
        configure({f"distributed.{key}": value})


def dense(users=900, items=700, layout="prepared"):
    """Data of which the interactions need more memory than anything else."""
    train = sp.csr_array(np.ones((users, items), np.float32))
    none = sp.csr_array((users, items), dtype=np.float32)
    return Dataset("dense", layout, users, items, train, none, none, {})


def mebibytes(data, config, groups):
    return budget.needed(data, config, groups) / 2**20


def with_budget(config, mib):
    return config.changed("train", memory=f"{mib:.3f}MiB")


def test_the_smallest_number_of_groups_that_fits(monkeypatch):
    monkeypatch.setattr(ranks, "_current", distributed.Ranks(0, 4))
    data, config = dense(), configure(SETTINGS | {"distributed.groups": "auto", "train.batch": 64})
    whole, two, four = (mebibytes(data, config, groups) for groups in (1, 2, 4))
    assert whole > 1.2 * two > 1.2 * 1.2 * four
    for limit, expected in ((1.01 * whole, 1), (0.99 * whole, 2), (1.01 * two, 2), (0.99 * two, 4), (1.01 * four, 4)):
        assert budget.chosen_groups(data, with_budget(config, limit)) == expected
    with pytest.raises(InputError) as caught:
        budget.chosen_groups(data, with_budget(config, 0.99 * four))
    one_line(caught, "dense: with any number of groups, each of the 4 ranks needs at least about", "raise --memory")
    remark = budget.groups_remark(data, with_budget(config, 1.01 * two).changed("distributed", groups=2))
    assert remark.startswith('distributed.groups = "auto": 2, because a rank with the whole graph would need about ')
    remark = budget.groups_remark(data, with_budget(config, 1.01 * whole).changed("distributed", groups=1))
    assert remark.startswith('distributed.groups = "auto": 1, because a rank with the whole graph needs about ')


def test_groups_are_chosen_before_features_are_rounded(monkeypatch):
    """float16 changes results, groups do not. If no number of groups fits, both are used."""
    monkeypatch.setattr(ranks, "_current", distributed.Ranks(0, 2))
    data = dense(items=500)
    data = replace(data, features={"image": np.ones((500, 3000), np.float32)})
    config = configure({"model.hidden": [8, 4], "model.dim": 8, "train.batch": 64, "distributed.groups": "auto"})
    default = config.changed("train", feature_dtype="float32", recompute="off")
    default = default.changed("optimiser", first_layer_weight="float32")
    smaller = default.changed("train", feature_dtype="float16", recompute="on")
    one, two = (mebibytes(data, default, groups) for groups in (1, 2))
    least = mebibytes(data, smaller, 2)
    assert one > two > least
    assert budget.chosen_groups(data, with_budget(config, 1.001 * two)) == 2
    monkeypatch.setattr(ranks, "_current", distributed.Ranks(0, 2).divided(2))
    fitted = budget.fit_to_budget(data, with_budget(config, 1.001 * two))
    assert fitted.train.feature_dtype == "float32" and fitted.train.recompute == "off"
    assert budget.chosen_groups(data, with_budget(config, 1.001 * least)) == 2
    fitted = budget.fit_to_budget(data, with_budget(config, 1.001 * least))
    assert fitted.train.feature_dtype == "float16"


def test_the_largest_group_counts(monkeypatch):
    """Of ids sorted by popularity, the first group has most of the interactions."""
    data = dense()
    keep = np.arange(900)[:, None] * 2 + np.arange(700) < 600
    data = replace(data, train=sp.csr_array(keep.astype(np.float32)))
    shares = []
    for group in range(2):
        graph = distributed.GroupGraph.from_csr(
            data.train.indptr, data.train.indices, 700, distributed.Ranks(group, 2).divided(2)
        )
        shares.append(sum(len(block.col) for side in graph.blocks.values() for block in side.values()))
    expected = max(shares) / np.mean(shares)
    assert expected > 1.5 and largest_group(data, 2, 2) == pytest.approx(expected)
    assert largest_group(data, 2, 1) == 1 and largest_group(dense(), 4, 4) == pytest.approx(1)
    monkeypatch.setattr(ranks, "_current", distributed.Ranks(0, 2).divided(2))
    config = configure(SETTINGS)
    graph = next(stage for stage in stages(sizes_of(data, config)) if stage.name == "graph and its transpose")
    assert graph.persistent == pytest.approx(4 * max(shares) + 16 * 1600, rel=1e-3)
    assert budget.unequal_groups(data).startswith(f"the largest of the 2 groups has {expected:.1f} times as many inter")
    assert budget.unequal_groups(dense()) is None


def test_one_process_has_one_group():
    config = configure(SETTINGS | {"distributed.groups": "auto"})
    assert together.join("cpu", config.distributed).size == 1
    assert budget.unequal_groups(load_data()) is None


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
