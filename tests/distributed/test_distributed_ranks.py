"""The ops and runs of 2, 3 and 4 processes against those of one, and states that any number of processes resumes.

In one file, so that one start for each number of ranks serves every test; see driver.py.
"""

import json
import shutil
import signal

import pytest
import rank_training_cases
import torch
from all_cases import BROKEN, CASES
from mmssl_trainer.errors import InputError
from mmssl_trainer.training import state_file
from mmssl_trainer.training.checkpoints import Checkpoints
from rank_training_cases import CONTRASTS, GROUPED, IN_GROUPS, INTERRUPTED, ROUNDED, RUNS, configured
from safetensors.torch import load_file

pytestmark = pytest.mark.processes
BIT_IDENTICAL = "lightgcn_odd"
several = pytest.mark.parametrize("n", [2, 3, 4])


@several
@pytest.mark.parametrize("case", CASES)
def test_ranks_as_one(started, case, n):
    assert [rank[case] for rank in started(n).part("ops")] == [[]] * n


@several
@pytest.mark.parametrize("case", BROKEN)
def test_cases_notice_a_missing_part(started, case, n):
    assert any(rank[case] for rank in started(n).part("ops"))


@several
@pytest.mark.parametrize("name", RUNS)
def test_same_bits_on_any_number_of_ranks(started, name, n):
    (expected,) = started(1).part("runs")
    ranks = started(n).part("runs")
    for rank, found in enumerate(ranks):
        for what, value in found[name].items():
            assert value == expected[name][what] or (what == "model" and rank and value is None), (what, rank)
    assert ranks[0][name]["model"] is not None
    assert not list(started(n).folder.glob(".*.tmp"))


@several
@pytest.mark.parametrize("name", ROUNDED)
def test_same_results_up_to_rounding(started, name, n):
    (expected,) = started(1).part("runs")
    ranks = started(n).part("runs")
    for found in ranks:
        assert found[name] | {"model": None} == ranks[0][name] | {"model": None}
        for what in ("losses", "val", "best_epoch"):
            assert numbers(found[name][what]) == pytest.approx(numbers(expected[name][what]), rel=1e-9), what
        assert numbers(found[name]["test"]) == pytest.approx(numbers(expected[name]["test"]), rel=1e-9)
    same_model(started(n).folder, started(1).folder, name)


@pytest.mark.parametrize("n, groups", [(n, groups) for n, runs in IN_GROUPS.items() for groups in runs])
def test_a_graph_divided_among_groups(started, n, groups):
    """LightGCN with the bits of one process, SGL and NCL with those of as many ranks without groups, MMSSL up to
    rounding. On three ranks in three groups, resumed from checkpoints of four in two groups."""
    (expected,), ranks = started(1).part("runs"), started(n).part("runs")
    found = [rank[f"{groups} groups"] for rank in ranks]
    for name in IN_GROUPS[n][groups]:
        for rank, one in enumerate(found):
            if name in CONTRASTS:
                assert one[name] == ranks[rank][name], rank
            for what, value in one[name].items():
                truth = expected[name][what]
                if name == BIT_IDENTICAL:
                    assert value == truth or (what == "model" and rank), (what, rank)
                elif what != "model":
                    assert numbers(value) == pytest.approx(numbers(truth), rel=1e-9), (what, rank)
        same_model(started(n).folder / f"groups-{groups}", started(1).folder, name)
    if n == 3:
        assert found[0]["resumed"][BIT_IDENTICAL][1] == expected[BIT_IDENTICAL]["model"]
        for name in CONTRASTS:
            same_model(started(n).folder / "groups-3" / f"resumed-{name}", started(1).folder, name)


@pytest.mark.parametrize("name", GROUPED)
def test_one_process_resumes_a_checkpoint_of_groups(started, tmp_path, name):
    _, model = rank_training_cases.resumed(name, started(4).folder / "groups-2" / f"run-{name}", tmp_path)
    if name == BIT_IDENTICAL:
        assert model == started(1).part("runs")[0][name]["model"]
    same_model(tmp_path / f"resumed-{name}", started(1).folder, name)


def numbers(value) -> list[float]:
    """The numbers in dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    return [one for part in value for one in numbers(part)] if isinstance(value, list) else [value]


def same_model(folder, expected, name):
    """The same tensors up to rounding: embeddings, clusters of NCL, neighbours of MMSSL."""
    found, truth = (load_file(path / f"{name}.safetensors") for path in (folder, expected))
    assert found.keys() == truth.keys()
    for tensor, value in truth.items():
        bound = 1e-9 * float(value.double().abs().max())
        torch.testing.assert_close(found[tensor], value, rtol=0, atol=bound, msg=tensor)


@several
def test_a_rank_reads_the_features_of_its_items_only(started, n):
    assert [rank["own features"] for rank in started(n).part("runs")] == [True] * n


@several
def test_the_scaling_has_the_bits_of_one_process(started, n):
    found, truth = (load_file(started(one).folder / "mmssl.safetensors") for one in (n, 1))
    names = [name for name in truth if name.startswith("scaling.")]
    assert len(names) == 4 and all(found[name].equal(truth[name]) for name in names)


def test_runs_learn(started):
    """The compared values are not constant."""
    (found,) = started(1).part("runs")
    for name in ("lightgcn", "lightgcn_odd", "mf", "sgl", "ncl", "mmssl"):
        first, last = found[name]["losses"][0], found[name]["losses"][-1]
        assert first["bpr"] > last["bpr"] and found[name]["test"]["users"] > 100
        assert 0 < found[name]["test"]["recall@20"] < 1


@several
def test_lists_and_metrics_of_a_saved_model(started, n):
    """The files of all ranks, concatenated, are the file of one process."""
    assert [rank["ranked"] for rank in started(n).part("runs")] == [started(1).part("runs")[0]["ranked"]] * n
    whole = (started(1).folder / "lists" / "all.csv").read_text().splitlines()
    names = [f"part-{rank:05d}-of-{n:05d}.csv" for rank in range(n)]
    assert sorted(path.name for path in (started(n).folder / "lists").iterdir()) == names
    parts = [(started(n).folder / "lists" / name).read_text().splitlines() for name in names]
    assert all(part[0] == whole[0] for part in parts)
    assert [line for part in parts for line in part[1:]] == whole[1:]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_signal_on_one_rank_ends_all_after_the_same_step(started, name, n):
    steps = INTERRUPTED[name]
    message = f"interrupted in epoch 2, after step 1 of {steps}; to resume: mmssl-fast train --resume RUN"
    assert [rank["interrupted"][name] for rank in started(n).part("runs")] == [[signal.SIGTERM, message]] * n


@several
@pytest.mark.parametrize("name", INTERRUPTED)
def test_another_number_of_ranks_resumes_a_checkpoint(started, name, n):
    """1 → 4 → 3 → 2 ranks, each with the result of the uninterrupted run."""
    notes, model = started(n).part("runs")[0]["resumed"][name]
    assert notes == [f"resumed from the checkpoint written in epoch 2, after step 1 of {INTERRUPTED[name]}"]
    if name == BIT_IDENTICAL:
        assert model == started(1).part("runs")[0][name]["model"]
    same_model(started(n).folder / f"resumed-{name}", started(1).folder, name)


@several
@pytest.mark.parametrize("name", INTERRUPTED)
def test_one_process_resumes_a_checkpoint_of_several_ranks(started, tmp_path, name, n):
    notes, model = rank_training_cases.resumed(name, started(n).folder / f"run-{name}", tmp_path)
    assert notes[0] == f"resumed from the checkpoint written in epoch 2, after step 1 of {INTERRUPTED[name]}"
    if name == BIT_IDENTICAL:
        assert model == started(1).part("runs")[0][name]["model"]
    same_model(tmp_path / f"resumed-{name}", started(1).folder, name)


@pytest.fixture
def run(started, tmp_path):
    """A copy of an interrupted run of 3 ranks, and the folder of its newest checkpoint."""
    shutil.copytree(started(3).folder / f"run-{BIT_IDENTICAL}", tmp_path / "run")
    return tmp_path / "run", state_file.newest(tmp_path / "run" / "state").parent


def opened(run):
    checkpoints = Checkpoints(run, rank_training_cases.data(), configured(BIT_IDENTICAL))
    return checkpoints.open() and checkpoints.last


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda state: (state / "rank-00001.safetensors").unlink(), "rank-00001.safetensors: is missing"),
        (lambda state: (state / "rank-00003.safetensors").touch(), "rank-00003.safetensors: does not belong to"),
        (lambda state: _cut(state / "rank-00002.safetensors"), "rank-00002.safetensors: has .* bytes instead of"),
        (lambda state: _flip(state / "rank-00000.safetensors"), "rank-00000.safetensors: has been modified"),
        (lambda state: _flip(state / "state.json"), "state.json: "),
    ],
)
def test_a_damaged_checkpoint_is_refused(run, damage, message):
    path, state = run
    assert opened(path)
    damage(state)
    with pytest.raises(InputError, match=f"{message}.*to resume from the previous checkpoint.*remove {state}"):
        opened(path)


def test_a_checkpoint_without_state_json_is_ignored(run):
    path, state = run
    (state / "state.json").unlink()
    earlier = state_file.newest(path / "state")
    assert earlier != state / "state.json"
    assert opened(path) == (json.loads(earlier.read_text())["state"]["where"] if earlier else False)


def test_old_checkpoints_are_removed(run):
    path, state = run
    folder = path / "state"
    for name in ("0000000001.0", "0000000002.0", "9000000000.0"):  # the last was never finished
        shutil.copytree(state, folder / name)
    (folder / "9000000000.0" / "state.json").unlink()
    (folder / "kept").mkdir()
    state_file.thin(folder, 1)
    assert sorted(one.name for one in folder.iterdir()) == [state.name, "kept"]
    state_file.remove(folder)
    assert [one.name for one in folder.iterdir()] == ["kept"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
