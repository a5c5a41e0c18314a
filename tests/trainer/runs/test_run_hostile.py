"""Hostile run folders and tables: what evaluate, recommend and --resume read crashes nothing, costs little and reaches
nothing outside the folder."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from data_folders import one_line
from data_fuzz import BYTES, FUZZ, mutations, within_64_mib
from hypothesis import given
from hypothesis import strategies as st
from mmssl_trainer import configure
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.compare import refuse_other
from mmssl_trainer.config.sections import Config
from mmssl_trainer.data import InputError, load, synthetic
from mmssl_trainer.data.tables import read_table
from mmssl_trainer.runs import saved_model
from mmssl_trainer.training import state_file
from mmssl_trainer.training.progress import Fit
from safetensors.torch import load as load_tensors
from safetensors.torch import save, save_file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bytes of a sound model.safetensors."""
    path = tmp_path_factory.mktemp("model") / saved_model.FILE
    data = synthetic(seed=1, n_users=6, n_items=20, modalities={"image": 2})
    fitted = Fit(torch.ones(6, 2), torch.ones(20, 2), {"w": torch.ones(2)})
    saved_model.save(saved_model.Model.of(fitted, data, configure({"model.system": "lightgcn"})), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def state():
    """The bytes of a sound state: (JSON, tensors)."""
    tensors = save({"losses": torch.ones(2, 3)})
    body = {
        "format": state_file.FORMAT,
        "step": 1,
        "stale": 0,
        "best": None,
        "best_epoch": 0,
        "val": {},
        "epochs": [],
        "optimisers": {},
        "where": "",
        "epoch": 1,
        "tile": 64,
        "seconds": 0.0,
        "terms": ["a", "b", "c"],
        "config": {},
        "fingerprint": "",
        "threads": 1,
        "versions": {},
        "tensors": {"bytes": len(tensors), "sha256": state_file.hashlib.sha256(tensors).hexdigest()},
    }
    return state_file._with_checksum(body).encode(), tensors


RECORD = {"epoch": 1, "seconds": 1.0, "losses": {"a": 1.0, "b": 0.5, "c": 2}}


def safetensors(header, content=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "header beyond the file": safetensors(b"{}", length=2**40),
    "header beyond 64 bits": safetensors(b"{}", length=2**64 - 1),
    "shape beyond the file": safetensors({"embedding.users": tensor([2**40, 64], 0, 2**48)}),
    "shape that wraps": safetensors({"embedding.users": tensor([2**62, 4], 0, 0)}),
    "offsets that overlap": safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "offsets that fall": safetensors({"a": tensor([2], 8, 0)}, bytes(8)),
    "negative shape": safetensors({"a": tensor([-2], 0, 8)}, bytes(8)),
    "nested": safetensors(b'{"a":' * 50_000),
    "million characters": safetensors({"x" * 1_000_000: tensor([1], 0, 4)}, bytes(4)),
    "no format": save({"embedding.users": torch.ones(1, 1)}),
    "empty": b"",
}


@pytest.mark.parametrize("case", HEADERS)
def test_absurd_model_header_is_refused(case, tmp_path):
    path = tmp_path / saved_model.FILE
    path.write_bytes(HEADERS[case])
    with within_64_mib(), pytest.raises(InputError) as caught:
        saved_model.load(path)
    one_line(caught, path)


def written(model, path, metadata, **changed):
    """A model file like the sound one in the run folder `path`, with other metadata and some tensors changed."""
    path.mkdir()
    (path / saved_model.FILE).write_bytes(model)
    sound = saved_model.load(path)
    tensors = {"embedding.users": sound.users, "embedding.items": sound.items}
    for split in ("train", "val", "test"):
        matrix = getattr(sound.interactions, split)
        tensors[f"{split}.indptr"] = torch.from_numpy(matrix.indptr.astype(np.int64))
        tensors[f"{split}.indices"] = torch.from_numpy(matrix.indices.astype(np.int32))
    save_file(tensors | changed, path / saved_model.FILE, {"format": saved_model.FORMAT} | metadata)


def test_names_in_a_model_are_no_paths(model, tmp_path):
    """Tensor names and metadata that look like paths are text: nothing outside the folder is read or written."""
    run = tmp_path / "run"
    metadata = {"data": "../../outside", "layout": "/etc/passwd", "system": "../x"}
    written(model, run, metadata, **{"parameter.../../../outside": torch.ones(2)})
    assert main(["recommend", str(run), "--user", "0", "--k", "1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and [one.name for one in run.iterdir()] == [
        saved_model.FILE
    ]


@pytest.mark.parametrize("name", ["embedding.users", "embedding.items"])
@pytest.mark.parametrize(
    "value", [torch.tensor(1.0), torch.ones(3), torch.ones(2, 3, 1)], ids=["a number", "a vector", "three axes"]
)
def test_an_embedding_that_is_no_matrix(model, tmp_path, name, value):
    written(model, tmp_path / "run", {}, **{name: value})
    with pytest.raises(InputError) as caught:
        saved_model.load(tmp_path / "run")
    assert f"{name} is {tuple(value.shape)} of torch.float32, not two-dimensional float32" in str(caught.value)


def test_state_folder_that_leads_elsewhere_is_no_state(state, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0000000001.json").write_bytes(state[0])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state").symlink_to(elsewhere)
    assert state_file.newest(tmp_path / "run" / "state") is None
    state_file.remove(tmp_path / "run" / "state")
    assert (elsewhere / "0000000001.json").exists()


@pytest.mark.parametrize("name", ["../1.json", "1.json", "00000000001.json", "0000000001.json.x", "latest.json"])
def test_other_names_are_no_states(name, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).write_text("{}")
    assert state_file.newest(tmp_path / "state") is None


def test_state_of_a_size_no_state_has_is_not_read(tmp_path):
    """A sparse file of a terabyte costs nothing."""
    path = tmp_path / "0000000001.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    path.with_suffix(".safetensors").write_bytes(b"x")
    with within_64_mib(), pytest.raises(InputError, match="too many for a checkpoint"):
        state_file.read(path)


@pytest.mark.parametrize(
    "change, part",
    [
        ({"step": None}, "step is None"),
        ({"best": "high"}, "best is 'high'"),
        ({"epochs": [1]}, "an epoch or a section is not a table"),
        ({"config": {"model": 3}}, "an epoch or a section is not a table"),
        ({"tensors": {}}, "instead of None"),
        ({"optimisers": [1]}, "optimisers is a list"),
        ({"step": -1}, "step is -1"),
        ({"step": 2**64}, "step is 18446744073709551616"),
        ({"epoch": 0}, "epoch is 0"),
        ({"tile": -3}, "tile is -3"),
        ({"epochs": [{}]}, "the record of an epoch is malformed"),
        ({"epochs": [{"epoch": 1, "seconds": 1.0, "losses": 3}]}, "the record of an epoch is malformed"),
        ({"epochs": [{"epoch": 1, "seconds": 1.0, "losses": {"a": 1.0}}]}, "the record of an epoch is malformed"),
        ({"epochs": [RECORD | {"val": {"users": 3}}]}, "the record of an epoch is malformed"),
        ({"epochs": [RECORD], "terms": [["a"]]}, "the record of an epoch is malformed"),
    ],
)
def test_state_with_a_right_checksum_that_is_none(change, part, state, tmp_path):
    path = tmp_path / "0000000001.json"
    path.write_text(state_file._with_checksum(json.loads(state[0])["state"] | change))
    path.with_suffix(".safetensors").write_bytes(state[1])
    with pytest.raises(InputError) as caught:
        state_file.read(path)
    one_line(caught, tmp_path, part)


@pytest.mark.parametrize("shape, dtype", [((), torch.int64), ((21,), torch.float32), ((21, 1), torch.int64)])
def test_model_of_other_types_is_refused(shape, dtype, model, tmp_path):
    tensors = load_tensors(model) | {
        "ids.items.bytes": torch.zeros(0, dtype=torch.uint8),
        "ids.items.offsets": torch.zeros(shape, dtype=dtype),
    }
    save_file(tensors, tmp_path / saved_model.FILE, {"format": saved_model.FORMAT})
    with pytest.raises(InputError) as caught:
        saved_model.load(tmp_path)
    one_line(caught, saved_model.FILE, "ids.items.offsets is")


def test_model_whose_offsets_wrap_is_refused(model, tmp_path):
    """The differences of these offsets are positive in 64 bits; walking them would leave the arrays."""
    tensors = load_tensors(model)
    offsets = tensors["train.indptr"].to(torch.int64)
    offsets[1:3] = torch.tensor([2**63 - 1, -2])
    save_file(tensors | {"train.indptr": offsets}, tmp_path / saved_model.FILE, {"format": saved_model.FORMAT})
    with pytest.raises(InputError) as caught:
        saved_model.load(tmp_path)
    one_line(caught, saved_model.FILE, "train contains an index outside")


@pytest.mark.parametrize("key", ["0\xad", "a\nb", "k" * 1000])
def test_key_that_no_configuration_has_is_quoted(key):
    with pytest.raises(InputError) as caught:
        refuse_other(Path("run"), {"loss": {key: 1}}, {"loss": {}})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_a_run_that_is_older_than_a_key_goes_on_with_its_default_alone():
    new = Config().changed("model", neighbours_method="exact").model_dump()
    old = {name: dict(section) for name, section in Config().model_dump().items()}
    del old["train"]["recompute"], old["model"]["neighbours_method"]
    refuse_other(Path("run"), old, new)
    new["train"]["recompute"] = "on"
    with pytest.raises(InputError, match="recompute was 'auto' when the run was started, but is 'on' now"):
        refuse_other(Path("run"), old, new)


TSV = {
    "million characters": b"userID\titemID\n1\t" + b"7" * 1_000_000 + b"\n",
    "million columns": b"userID\titemID" + b"\tx" * 500_000 + b"\n1\t2\n",
    "line beyond a block": b"userID\titemID\n1\t" + b"x" * (20 << 20) + b"\n",
    "null character": b"userID\titemID\n1\ta\x00b\n",
}


@pytest.mark.parametrize("case", TSV)
def test_hostile_tsv_is_refused(case, tmp_path):
    path = tmp_path / "shop.inter"
    path.write_bytes(TSV[case])
    with pytest.raises(InputError) as caught:
        read_table(path, ["userID", "itemID"], separator="\t")
    one_line(caught, path)


IDS = {
    "text": ("a7", "item"),
    "negative": ("-1", "item"),
    "beyond 63 bits": ("9223372036854775808", "item"),
    "a number of a hundred digits": ("9" * 100, "item"),
    "far apart": ("999999999999", "1000000000000 items, but only 2 occur"),
    "a fraction": ("1.0", "item"),
    "other digits": ("\u0663", "item"),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_that_are_no_indices_are_refused_with_the_row(case, tmp_path):
    """Where ids count from 0 (MMRec's layout); 10^12 among two would be terabytes of empty rows."""
    text, part = IDS[case]
    (tmp_path / "shop.inter").write_text(f"userID\titemID\tx_label\n0\t0\t0\n1\t{text}\t0\n", encoding="utf-8")
    with within_64_mib(), pytest.raises(InputError) as caught:
        load(tmp_path, modalities=[])
    one_line(caught, "shop.inter", part)


# fuzzing


@FUZZ
@given(edit=st.data())
def test_fuzzed_model_is_sound_or_an_error(edit, model, tmp_path):
    path = tmp_path / saved_model.FILE
    path.write_bytes(edit.draw(mutations(model) | BYTES))
    try:
        found = saved_model.load(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert found.users.shape[1] == found.items.shape[1] and found.interactions.train.shape[0] == len(found.users)


@FUZZ
@given(edit=st.data())
def test_fuzzed_state_is_the_same_or_an_error(edit, state, tmp_path):
    path = tmp_path / "0000000001.json"
    contents = [edit.draw(mutations(one) | st.just(one)) for one in state]
    path.write_bytes(contents[0])
    path.with_suffix(".safetensors").write_bytes(contents[1])
    try:
        found = state_file.read(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert contents[1] == state[1] and found.body == json.loads(state[0])["state"]
