"""The run folder and the saved model: what is written, read back and refused."""

import json

import numpy as np
import pytest
import torch
from mmssl_trainer.config.load import load
from mmssl_trainer.config.toml import to_toml
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs import folder as run_folder
from mmssl_trainer.runs import saved_model
from mmssl_trainer.training.loop import fit
from training_cases import configured, small_catalogue


@pytest.fixture(scope="module")
def data():
    return small_catalogue()


def run(path, data, config, **kwargs):
    folder = run_folder.RunFolder(path, data, config, **kwargs)
    fitted = fit(data, config, folder)
    folder.finish(fitted, split_metrics(fitted.users, fitted.items, data, "test", config.evaluate.ks))
    return fitted


def test_run_folder_holds_what_is_promised(data, tmp_path, curves):
    config = configured()
    fitted = run(tmp_path / "a" / "run", data, config)
    path = tmp_path / "a" / "run"
    assert {one.name for one in path.iterdir()} == set(run_folder.FILES) - {"baselines.json"}
    assert load(path / "config.toml") == config
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["seconds"] > 0 and line["peak_memory_bytes"] > 1e6
        assert "bpr" in line["losses"] and "ndcg@20" in line["val"]
    result = json.loads((path / "result.json").read_text())
    assert set(result) == {"test", "val", "best_epoch", "seconds_per_epoch", "seed", "versions", "data"}
    assert {"recall@20", "precision@20", "ndcg@20", "hit@20", "mrr@20", "recall@5"} <= set(result["test"])
    assert result["val"] == fitted.val and result["data"]["fingerprint"] == data.fingerprint
    assert result["versions"]["torch"] == torch.__version__
    assert (path / "curves.png").read_bytes().startswith(b"\x89PNG") and (path / "curves.png").stat().st_size > 5000


def test_saved_model_reads_back(data, tmp_path):
    users = np.array([f"u,{n}ä" for n in range(data.n_users)], dtype=object)
    named = Dataset(**{**vars(data), "user_ids": users, "item_ids": np.arange(data.n_items) * 7 - 3})
    fitted = run(tmp_path / "run", named, configured())
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        model = saved_model.load(path)
        assert torch.equal(model.users, fitted.users) and torch.equal(model.items, fitted.items)
        assert model.parameters.keys() == fitted.parameters.keys()
        assert model.interactions.user_ids.tolist() == users.tolist()
        assert model.interactions.item_ids.tolist() == named.item_ids.tolist()
        for split in ("train", "val", "test"):
            assert (getattr(model.interactions, split) != getattr(named, split)).nnz == 0
        assert model.interactions.fingerprint == named.fingerprint and model.metadata["system"] == "lightgcn"


@pytest.mark.parametrize("damage", ["cut", "text", "other format", "negative", "beyond", "missing", "shape"])
def test_damaged_model_is_refused(data, tmp_path, damage):
    from safetensors.torch import load_file, save_file

    run(tmp_path / "run", data, configured("popularity"))
    path = tmp_path / "run" / "model.safetensors"
    tensors, form = load_file(path), {"format": saved_model.FORMAT}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no tensors here")
    elif damage == "other format":
        save_file(tensors, path, {"format": "mmssl_fast model 99"})
    else:
        if damage == "negative":
            tensors["train.indices"][0] = -1
        elif damage == "beyond":
            tensors["train.indptr"][-1] += 10**6
        elif damage == "missing":
            del tensors["embedding.items"]
        else:
            tensors["embedding.users"] = tensors["embedding.users"][:-1].contiguous()
        save_file(tensors, path, form)
    with pytest.raises(InputError, match=r"model\.safetensors: "):
        saved_model.load(path)


def test_occupied_folder_is_refused(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run_folder.RunFolder(tmp_path, data, configured())
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_overwrite_replaces_the_run_and_keeps_the_rest(data, tmp_path):
    run(tmp_path / "run", data, configured())
    (tmp_path / "run" / "notes.txt").write_text("mine")
    config = configured(train__epochs=1, train__seed=9)
    folder = run_folder.RunFolder(tmp_path / "run", data, config, overwrite=True)
    assert (folder.path / "result.json").exists()  # until the system accepts
    folder.accepted()
    assert {one.name for one in folder.path.iterdir()} == {"config.toml", "metrics.jsonl", "notes.txt"}
    assert (folder.path / "config.toml").read_text() == to_toml(config)


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_unwritable_folder_is_one_sentence(data, tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError) as caught:
        run_folder.RunFolder(tmp_path / place, data, configured())
    assert "--out" in str(caught.value) and (tmp_path / "file").read_text() == "x"


def test_write_that_fails_leaves_the_old_file(tmp_path):
    from mmssl_trainer.files import write_with

    path = tmp_path / "result.json"
    path.write_text("old")

    def broken(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_with(path, broken)
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["result.json"]
