"""The towers as torch.export programs and ONNX models, run apart from the model."""

import json

import numpy as np
import pytest
import torch
from child_processes import python
from full_disk import full_disk
from mmssl_trainer import InputError, embed_items, export, fit, fold_in
from mmssl_trainer.exports import towers
from pyarrow import parquet
from served_model import made
from training_cases import configured, small_catalogue

HISTORIES = [[3, 8, 79], [5], [], list(range(0, 80, 2))]


@pytest.fixture(scope="module", params=["lightgcn", "mmssl", "mmgcn"])
def model(request):
    return fit(small_catalogue(), configured(request.param, train__epochs=1))


@pytest.fixture(scope="module")
def programs(model, tmp_path_factory):
    """(what export returns, the folder)."""
    folder = tmp_path_factory.mktemp("programs") / "out"
    return export(model, folder, "torch-export"), folder


def rows(histories):
    crow = np.cumsum([0, *map(len, histories)])
    return crow, np.array([item for history in histories for item in sorted(history)], np.int64)


def check(folder, model, run):
    """run(side, inputs) gives the embeddings of fold_in and embed_items, for one and for many."""
    facts = json.loads((folder / "towers.json").read_text())
    assert parquet.read_table(folder / "items.parquet")["item"].to_pylist() == list(range(80))
    for histories in (HISTORIES, [[5]], [[]], HISTORIES * 30):
        got = run("users", rows(histories))
        np.testing.assert_allclose(got, fold_in(model, histories).numpy(), rtol=1e-4, atol=1e-5)
    assert ("items" in facts) == (model.metadata["system"] != "lightgcn")
    for n in (1, 7, 80) if "items" in facts else ():
        features = {name: values[:n] for name, values in model.interactions.features.items()}
        got = run("items", [features[name].astype(np.float32) for name in facts["items"]["inputs"]])
        np.testing.assert_allclose(got, embed_items(model, features).numpy(), rtol=1e-4, atol=1e-5)


def test_torch_export(model, programs):
    exported, folder = programs
    assert any("differs from the model by at most" in note for note in exported.notes)
    loaded = {file.stem: torch.export.load(file).module() for file in folder.glob("*.pt2")}
    check(folder, model, lambda side, inputs: loaded[side](*map(torch.as_tensor, inputs)).numpy())


@pytest.mark.processes
def test_a_program_is_loaded_with_mmssl_fast_alone(programs):
    code = f"""
import sys, torch, mmssl_fast
tower = torch.export.load({str(programs[1] / "users.pt2")!r}).module()
print(tower(torch.tensor([0, 2]), torch.tensor([3, 8])).shape[0], "mmssl_trainer" in sys.modules)
"""
    assert python(code).stdout.split() == ["1", "False"]


def test_onnx(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export(model, tmp_path / "out", "onnx")
    sessions = {file.stem: onnxruntime.InferenceSession(str(file)) for file in (tmp_path / "out").glob("*.onnx")}

    def run(side, inputs):
        names = [one.name for one in sessions[side].get_inputs()]
        return sessions[side].run(None, dict(zip(names, inputs, strict=True)))[0]

    check(tmp_path / "out", model, run)
    for row in (-1, -80, -81, 80):  # ONNX counts −1 from the end of a table: an unknown item would be the last one
        with pytest.raises(Exception, match="out of"):
            run("users", (np.array([0, 2]), np.array(sorted([row, 3]))))


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_a_model_without_towers_is_refused(tmp_path, to):
    with pytest.raises(InputError, match="cannot embed a user by a history"):
        export(fit(small_catalogue(), configured("mf", train__epochs=1)), tmp_path / "out", to)
    with pytest.raises(InputError):
        export(made(), tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


def test_a_tower_with_other_results_is_refused(tmp_path, monkeypatch):
    model = fit(small_catalogue(), configured("lightgcn", train__epochs=1))
    monkeypatch.setattr(towers.Tower, "difference", lambda self, run: 0.5)
    with pytest.raises(InputError, match=r"users\.pt2 differs from the model by 0\.5"):
        export(model, tmp_path / "out", "torch-export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_an_occupied_folder_is_refused(model, tmp_path, to):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        export(model, tmp_path, to)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_difference_is_found():
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    tower = towers.Tower(Doubled(), ["x"], [(torch.tensor([[1.0, 4.0]]),), (torch.zeros(0, 2),)])
    assert tower.difference(lambda batch: 2 * batch[0]) == 0
    assert tower.difference(lambda batch: 2 * batch[0] + 1) == 0.125
    assert tower.difference(lambda batch: 2 * batch[0][:0]) == float("inf")
    assert not tower.difference(lambda batch: batch[0] * torch.nan) <= 1


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_a_full_disk_is_named_as_the_cause_and_nothing_is_left(tmp_path, to):
    model = fit(small_catalogue(), configured("lightgcn", train__epochs=1))
    with full_disk(2000), pytest.raises(InputError, match=r"out: .*cannot be written \("):
        export(model, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())
