"""States that are refused: damaged, moved, of other data or of another configuration."""

import json
import shutil

import pytest
from checkpoint_cases import configured, interrupted, resumed
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.files import write_tensors
from mmssl_trainer.training import state_file
from mmssl_trainer.training.checkpoints import Checkpoints


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
        f"fingerprint was {data.fingerprint[:16]}, but is ",
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
    with pytest.raises(InputError, match="cannot be used with this version"):
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
