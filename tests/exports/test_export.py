"""Exports, read by the libraries that they are for: the same vectors, ids and lists."""

import json
import sys
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from command_line import fails
from full_disk import full_disk
from mmssl_trainer import InputError, Model, export, save
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import Dataset
from mmssl_trainer.exports import FORMATS, TABLES
from mmssl_trainer.exports.check import Settings, recall_at
from pyarrow import parquet
from safetensors import safe_open
from safetensors.numpy import load_file

N_USERS, N_ITEMS, DIM = 60, 300, 12
needs_hnswlib = pytest.mark.skipif(find_spec("hnswlib") is None, reason="pip install hnswlib, which has no wheels")
HNSWLIB = pytest.param("hnswlib", marks=needs_hnswlib)
INDEXES = ("faiss", "usearch", HNSWLIB)


def made(kind):
    rng = np.random.default_rng(7)
    held = sp.csr_array((rng.random((N_USERS, N_ITEMS)) < 0.03).astype(np.float32))
    empty = sp.csr_array((N_USERS, N_ITEMS), dtype=np.float32)
    item_ids = {
        "numbers": np.arange(N_ITEMS) + 2**62,  # rounded to float64 they would all be one
        "negative": np.arange(N_ITEMS) - 1,
        "text": np.array([f"item-{n}, ä" for n in range(N_ITEMS)], object),
        "rows": None,
    }[kind]
    user_ids = np.array([f"u{n}" for n in range(N_USERS)], object) if kind == "text" else None
    data = Dataset("made", "made", N_USERS, N_ITEMS, held, empty, empty, {}, user_ids, item_ids)
    users = torch.from_numpy(rng.standard_normal((N_USERS, DIM)).astype(np.float32))
    items = torch.from_numpy((rng.standard_normal((N_ITEMS, DIM)) * rng.gamma(2, 1, (N_ITEMS, 1))).astype(np.float32))
    users[3] = 0  # a user without training interactions
    items[[5, 17]] = 0  # cold items
    items[40] = items[41]  # tied
    return Model(users, items, {}, data, {"format": "mmssl_fast model 1", "system": "lightgcn", "data": "made"})


@pytest.fixture(params=["numbers", "negative", "text", "rows"])
def model(request):
    return made(request.param)


def ids_of(model):
    data = model.interactions
    return data.original_users(np.arange(N_USERS)).tolist(), data.original_items(np.arange(N_ITEMS)).tolist()


def texts(tensors, name):
    """The ids as the documentation says: bytes with offsets, or numbers."""
    if f"{name}.bytes" not in tensors:
        return tensors[name].tolist()
    raw, ends = tensors[f"{name}.bytes"].tobytes(), tensors[f"{name}.offsets"]
    return [raw[a:b].decode() for a, b in pairwise(ends)]


def test_safetensors(model, tmp_path):
    assert export(model, tmp_path / "out.safetensors", "safetensors").files == [tmp_path / "out.safetensors"]
    tensors = load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(tensors["users"], model.users.numpy())
    np.testing.assert_array_equal(tensors["items"], model.items.numpy())
    assert (texts(tensors, "ids.users"), texts(tensors, "ids.items")) == ids_of(model)
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        assert json.loads(file.metadata()["header"])["system"] == "lightgcn"


def test_parquet(model, tmp_path):
    export(model, tmp_path / "out", "parquet")
    counts = model.interactions.train.sum(0).tolist()
    for side, ids in zip(("user", "item"), ids_of(model), strict=True):
        table = parquet.read_table(tmp_path / "out" / f"{side}s.parquet")
        assert table.column_names == [side, "interactions", "embedding"]
        assert table[side].to_pylist() == ids
        np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), "f4"), getattr(model, f"{side}s"))
    assert table["interactions"].to_pylist() == counts


def test_npy_is_read_without_pickle(model, tmp_path):
    export(model, tmp_path / "out", "npy")
    for side, ids in zip(("user", "item"), ids_of(model), strict=True):
        assert np.load(tmp_path / "out" / f"{side}_ids.npy", allow_pickle=False).tolist() == ids
        vectors = np.load(tmp_path / "out" / f"{side}s.npy", allow_pickle=False)
        np.testing.assert_array_equal(vectors, getattr(model, f"{side}s").numpy())


@pytest.mark.parametrize("text, says", [("ends\0", "ends with NUL"), ("x" * 4_000_000, "4000000 characters")])
def test_npy_refuses_texts_it_cannot_hold(tmp_path, text, says):
    model = made("text")
    model.interactions.item_ids[9] = text
    with pytest.raises(InputError, match=says):
        export(model, tmp_path / "out", "npy")
    assert not list(tmp_path.iterdir())
    export(model, tmp_path / "out", "parquet")
    assert parquet.read_table(tmp_path / "out" / "items.parquet")["item"][9].as_py() == text


def faiss_search(folder, facts):
    import faiss

    index = faiss.read_index(str(folder / facts["file"]))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    return index.ntotal, lambda queries, k: index.search(queries, k)


def usearch_search(folder, facts):
    from usearch.index import Index, MetricKind, ScalarKind

    index = Index.restore(str(folder / facts["file"]))
    assert index.metric == MetricKind.IP and index.dtype == ScalarKind.F32
    index.expansion_search = facts["expansion_search"]

    def search(queries, k):
        found = index.search(queries, k)
        assert (found.counts == k).all()
        return 1 - found.distances, found.keys

    return len(index), search


def hnswlib_search(folder, facts):
    import hnswlib

    index = hnswlib.Index(space=facts["space"], dim=facts["dimensions"])
    index.load_index(str(folder / facts["file"]))
    index.set_ef(facts["ef"])

    def search(queries, k):
        keys, distances = index.knn_query(queries, k)
        return 1 - distances, keys

    return index.get_current_count(), search


OPEN = {"faiss": faiss_search, "usearch": usearch_search, "hnswlib": hnswlib_search}


@pytest.mark.parametrize("to", INDEXES)
def test_an_index_finds_the_items_of_the_exact_lists_by_their_ids(model, tmp_path, to):
    exported = export(model, tmp_path / "out", to)
    facts = json.loads((tmp_path / "out" / "index.json").read_text())
    table = parquet.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    assert table["item"] == ids_of(model)[1]
    count, search = OPEN[to](tmp_path / "out", facts)
    assert count == facts["vectors"] == N_ITEMS - 2 and facts["left_out"] == 2
    assert [n for n, key in enumerate(table["key"]) if key is None] == [5, 17]
    item_of = {key: item for key, item in zip(table["key"], table["item"], strict=True) if key is not None}
    if all(isinstance(item, int) and item >= 0 for item in table["item"]):
        assert all(key == item for key, item in item_of.items())
    queries = np.delete(model.users.numpy(), 3, 0)
    exact = queries @ model.items.numpy().T
    exact[:, [5, 17]] = -np.inf
    scores, keys = search(queries, 10)
    row_of = {item: row for row, item in enumerate(table["item"])}
    rows = np.array([[row_of[item_of[int(key)]] for key in line] for line in keys])
    best = -np.sort(-exact, 1)[:, :10]
    np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), scores, rtol=1e-4, atol=1e-4)  # ids belong to scores
    assert np.isclose(scores, best, rtol=1e-4, atol=1e-4).mean() > 0.98
    assert set(exported.recall) == {10, 50} and min(exported.recall.values()) > 0.98
    assert any("left out of the index" in note for note in exported.notes)


def test_recall_counts_ties_and_repeated_or_unknown_keys():
    vectors, keys = np.array([[1.0], [1.0], [0.5]], "f4").repeat(30, 0), np.arange(90)[::-1] + 5
    users = np.ones((4, 1), "f4")

    def found(rows):
        return recall_at(lambda queries, k: (None, np.tile(keys[rows][:k], (len(queries), 1))), users, vectors, keys)

    assert found(np.arange(90)) == {10: 1.0, 50: 1.0}
    assert found(np.arange(30, 90))[10] == 1.0  # other items with the same score
    assert found(np.arange(60, 90).repeat(2))[10] == 0.0
    assert found(np.zeros(90, int))[10] == 0.0  # one item again and again
    assert found(np.arange(5, 90))[50] == 1.0 and found(np.arange(15, 90))[50] == pytest.approx(0.9)
    unknown = recall_at(lambda queries, k: (None, np.full((len(queries), k), -1)), users, vectors, keys)
    assert unknown == {10: 0.0, 50: 0.0}


@pytest.mark.parametrize("to", ["usearch", HNSWLIB])
def test_a_poor_index_is_refused_and_leaves_nothing(tmp_path, to):
    with pytest.raises(InputError, match=r"finds 0\.\d+ of the best 10 items, less than 1\.0; raise --search"):
        export(made("numbers"), tmp_path / "out", to, Settings(neighbours=2, build=1, search=1, min_recall=1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["HNSW16", "IVF4,Flat"])
def test_kinds_of_a_faiss_index(tmp_path, kind):
    import faiss

    export(made("numbers"), tmp_path / "out", "faiss", Settings(faiss_index=kind, search=1000))
    outer = faiss.read_index(str(tmp_path / "out" / "items.faiss"))  # owns the inner one
    index = faiss.downcast_index(outer.index)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.hnsw.efSearch == 1000 if kind == "HNSW16" else index.nprobe == 4


@pytest.mark.parametrize("kind, says", [("Flatt", "does not know it"), ("IVF5000,Flat", "cannot be built")])
def test_a_wrong_kind_of_a_faiss_index_is_refused(tmp_path, kind, says):
    with pytest.raises(InputError, match=says):
        export(made("numbers"), tmp_path / "out", "faiss", Settings(faiss_index=kind))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", INDEXES)
def test_indexes_of_one_item_one_user_and_no_scored_item(tmp_path, to):
    model = made("numbers")
    model.users[1:] = 0
    model.items[1:] = 0
    assert export(model, tmp_path / "one", to).recall == {1: 1.0}
    model.users[:] = 0
    assert export(model, tmp_path / "no_user", to).recall == {1: 1.0}
    model.items[:] = 0
    with pytest.raises(InputError, match="nothing to index"):
        export(model, tmp_path / "none", to)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("to", [HNSWLIB if to == "hnswlib" else to for to in TABLES])
def test_the_same_model_gives_the_same_bytes(tmp_path, to):
    one, two = tmp_path / "a", tmp_path / "b"
    for path in (one, two):
        export(made("text"), path, to)
    for first in [one] if one.is_file() else one.iterdir():
        second = two if one.is_file() else two / first.name
        assert first.read_bytes() == second.read_bytes(), first


@pytest.mark.parametrize("to", [HNSWLIB if to == "hnswlib" else to for to in FORMATS])
def test_an_occupied_place_is_refused(tmp_path, to):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"is not empty|is a folder"):
        export(made("rows"), tmp_path / "full", to)
    with pytest.raises(InputError, match="does not exist"):
        export(made("rows"), tmp_path / "no" / "such" / "out", to)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("to, module", [("faiss", "faiss"), ("usearch", "usearch"), ("hnswlib", "hnswlib")])
def test_a_missing_library_is_one_line_with_the_command(tmp_path, monkeypatch, to, module):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
    with pytest.raises(InputError, match=rf"the package {module} is not installed; .*pip install .*\[export\]"):
        export(made("rows"), tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


class _Without:
    """A finder for which a package is not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save(made("text"), path)
    return str(path)


def test_no_file_is_replaced(run, tmp_path, capsys):
    """Least of all the model itself."""
    model, other = tmp_path / "model.safetensors", tmp_path / "other"
    model.write_bytes(open(run, "rb").read())
    other.write_bytes(b"precious")
    for file in (model, other):
        before = file.read_bytes()
        fails(capsys, ["export", str(model), "--to", "safetensors", "--out", str(file)], str(file), "exists")
        assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_command_prints_files_notes_and_recall(run, tmp_path, capsys):
    assert main(["export", run, "--to", "faiss", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "items.faiss" in said.out and "recall@10 of the index against the exact lists: 1.0000" in said.out
    assert "2 items have a zero embedding" in said.err and "rows of items.parquet" in said.err


@pytest.mark.parametrize(
    "arguments, fragments",
    [
        (["--to", "excel"], ["'excel'", "safetensors, parquet"]),
        (["--to", "usearch", "--search", "0"], ["search = 0", "between 1"]),
        (["--to", "usearch", "--neighbours", "1"], ["neighbours = 1"]),
        (["--to", "faiss", "--min-recall", "7"], ["min_recall = 7.0"]),
        ([], ["--to"]),
    ],
)
def test_the_command_refuses(run, tmp_path, capsys, arguments, fragments):
    fails(capsys, ["export", run, "--out", str(tmp_path / "out"), *arguments], *fragments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["safetensors", "parquet", "npy", *INDEXES])
def test_a_full_disk_is_named_as_the_cause_and_nothing_is_left(tmp_path, to):
    model = made("numbers")
    with full_disk(4000), pytest.raises(InputError) as refused:
        export(model, tmp_path / "out", to)
    assert str(refused.value).startswith(f"{tmp_path / 'out'}: ") and "cannot be written (" in str(refused.value)
    assert not list(tmp_path.iterdir())
