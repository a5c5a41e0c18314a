"""EASE, ItemKNN and UserKNN against dense float64 NumPy, and sparse embeddings against dense ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.embeddings import order_keys, row_keys, take, zero_rows
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import Ranking, ranking_metrics
from mmssl_trainer.runs.recommend import recommend
from mmssl_trainer.runs.saved_model import Model, load, save
from mmssl_trainer.systems.ease import EASESystem
from mmssl_trainer.systems.similarity import nearest
from mmssl_trainer.training.loop import fit
from plain_systems import configured

from mmssl_fast import InteractionGraph
from mmssl_fast.distributed import Ranks

EMBEDDINGS = "embedding.users", "embedding.items"


def standardised_units(data):
    """The features of every modality, of mean 0 and variance 1 by column, then of unit length by row, float64."""
    for raw in data.features.values():
        values = raw.astype(np.float64)
        values = (values - values.mean(0)) / values.std(0)
        yield values / np.linalg.norm(values, axis=1, keepdims=True)


def scores(fitted):
    users, items = (sp.csr_array(table).astype(np.float64) for table in (fitted.users, fitted.items))
    return (users @ items.T).toarray()


def ease(x, penalty, exponent=0.0, features=None, weight=0.0):
    """X B as in Steck's listing, with weights of users and with features."""
    scale = np.maximum(x.sum(1), 1) ** -exponent
    gram = x.T @ (scale[:, None] * x) + penalty * np.eye(x.shape[1])
    if features is not None:
        gram += weight * features @ features.T
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return x @ weights


def catalogue(users, items):
    return synthetic(seed=1, n_users=users, n_items=items, modalities={"image": 8, "text": 6}, mean_degree=16)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [(150, 100), (100, 150)], ids=["by items", "by users"])
def test_ease_is_the_closed_form_in_both_of_its_exact_forms(sizes, exponent):
    """Equal scores of all items that the user does not have, to the rounding of float32, and so equal lists."""
    data = catalogue(*sizes)
    x = data.train.toarray().astype(np.float64)
    expected = ease(x, 20.0, exponent)
    fitted = fit(data, configured("ease", ease__penalty=20.0, ease__user_exponent=exponent))
    assert isinstance(fitted.users, torch.Tensor) is (sizes[0] < sizes[1])
    np.testing.assert_allclose(scores(fitted)[x == 0], expected[x == 0], rtol=0, atol=1e-6)
    expected[x > 0] = -np.inf
    _, best = Ranking(fitted.items, seen=InteractionGraph.from_scipy(data.train)).best(
        fitted.users, torch.arange(data.n_users), 20
    )
    assert (np.argsort(-expected, 1)[:, :20] == best.numpy()).mean() > 0.999  # float32 swaps a near tie
    assert fitted.best > 1.3 * fit(data, configured("popularity")).best


def test_ease_with_features_reconstructs_them_too():
    data = catalogue(150, 100)
    x, features = data.train.toarray().astype(np.float64), np.concatenate([*standardised_units(data)], 1)
    fitted = fit(data, configured("ease", ease__penalty=20.0, ease__content=30.0))
    expected = ease(x, 20.0, features=features, weight=30.0)
    np.testing.assert_allclose(scores(fitted)[x == 0], expected[x == 0], rtol=0, atol=1e-6)
    assert np.abs(expected - ease(x, 20.0))[x == 0].max() > 0.01


def gaussian(data, tau):
    return sum(np.exp((unit @ unit.T - 1) / tau) for unit in standardised_units(data))


def test_ease_with_a_kernel_of_the_features(monkeypatch):
    """K instead of the products of the features, in the weights of all items and in those of items as if cold."""
    monkeypatch.setattr("mmssl_trainer.systems.ease.BLOCK", 33)
    data = catalogue(150, 100)
    x = data.train.toarray().astype(np.float64)
    kernel = gaussian(data, 0.4)
    root = np.linalg.cholesky(kernel)
    config = configured("ease", ease__penalty=20.0, ease__content=3.0, ease__content_tau=0.4)
    expected = ease(x, 20.0, features=root, weight=3.0)
    np.testing.assert_allclose(scores(fit(data, config))[x == 0], expected[x == 0], rtol=0, atol=1e-6)
    assert np.abs(expected - ease(x, 20.0))[x == 0].max() > 0.01
    system = EASESystem()
    system.build(data, InteractionGraph.from_scipy(data.train), config)
    cold = system.cold_items().numpy()
    for item in (0, 40, 99):
        without = x.copy()
        without[:, item] = 0
        inverse = np.linalg.inv(without.T @ without + 3.0 * kernel + 20.0 * np.eye(100))
        column = -inverse[:, item] / inverse[item, item]
        column[item] = 0
        np.testing.assert_allclose(cold[item], column, rtol=0, atol=1e-6)


def test_ease_of_a_low_rank_approaches_the_exact_one():
    data = catalogue(150, 100)
    unseen = data.train.toarray() == 0
    exact = scores(fit(data, configured("ease", ease__penalty=20.0)))[unseen]
    errors = []
    for rank in (10, 50, 99):
        found = scores(fit(data, configured("ease", ease__penalty=20.0, ease__rank=rank)))[unseen]
        errors.append(np.abs(found - exact).max())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02
    with pytest.raises(InputError, match=r"ease\.rank = 100 with 150 users and 100 items: set it to 99 or less"):
        fit(data, configured("ease", ease__rank=100))
    with pytest.raises(InputError, match=r"exact form only; set ease\.rank to 0"):
        fit(data, configured("ease", ease__rank=10, ease__content=1.0))


def cosines(rows, shrinkage):
    lengths = np.linalg.norm(rows, axis=1)
    found = rows @ rows.T / np.maximum(lengths[:, None] * lengths + shrinkage, 1e-30)
    np.fill_diagonal(found, 0)
    return found


def only_nearest(similar, count):
    if 0 < count < len(similar):
        similar = np.where(similar >= np.sort(similar, 1)[:, -count, None], similar, 0)
    return np.maximum(similar, 0)


@pytest.mark.parametrize("count, shrinkage, exponent", [(0, 0.0, 0.0), (7, 0.0, 0.0), (12, 5.0, 0.3)])
def test_neighbours_are_those_of_dense_cosines(count, shrinkage, exponent):
    data = catalogue(150, 100)
    x = data.train.toarray().astype(np.float64)
    shape = {"neighbours": count, "shrinkage": shrinkage}
    by_user = x / x.sum(1, keepdims=True).clip(1) ** exponent
    by_item = x / x.sum(0).clip(1) ** exponent
    expected = {
        "itemknn": x @ only_nearest(cosines(by_user.T, shrinkage).astype(np.float32), count).T,
        "userknn": only_nearest(cosines(by_item, shrinkage).astype(np.float32), count) @ x,
    }
    for name, side in (("itemknn", "user"), ("userknn", "item")):
        values = {f"{name}__{key}": value for key, value in (shape | {f"{side}_exponent": exponent}).items()}
        fitted = fit(data, configured(name, **values))
        np.testing.assert_allclose(scores(fitted), expected[name], rtol=1e-5, atol=1e-6)
        assert fitted.best > 1.3 * fit(data, configured("popularity")).best, name


def test_itemknn_with_features_adds_their_cosines():
    data = catalogue(150, 100)
    x = data.train.toarray().astype(np.float64)
    similar = cosines(x.T, 10.0) + 0.5 * sum(unit @ unit.T for unit in standardised_units(data))
    np.fill_diagonal(similar, 0)
    fitted = fit(data, configured("itemknn", itemknn__neighbours=30, itemknn__content=0.5))
    expected = x @ only_nearest(similar.astype(np.float32), 30).T
    np.testing.assert_allclose(scores(fitted), expected, rtol=1e-4, atol=1e-5)


def test_neighbours_as_similar_as_the_last_one_are_kept():
    rows = sp.csr_array(np.float64([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    found = nearest(rows, 1)
    assert found.toarray()[0].tolist() == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0])
    assert found[[3]].nnz == 0


# --- sparse embeddings -----------------------------------------------------------------------------------------------
def sparse_and_dense(seed=0):
    """Small whole numbers, whose products float32 knows exactly and which are often equal."""
    rng = np.random.default_rng(seed)
    users, items = (rng.integers(-1, 3, (n, 12)) * (rng.random((n, 12)) < 0.3) for n in (70, 50))
    users[[3, 40]], items[[0, 7, 49]] = 0, 0
    items[11] = items[12]
    return [
        (sp.csr_array(side.astype(np.float32)), torch.from_numpy(side.astype(np.float32))) for side in (users, items)
    ]


@pytest.mark.parametrize("dense_items", [False, True])
def test_sparse_embeddings_rank_as_dense_ones_do(dense_items, monkeypatch):
    (users, dense_users), (items, dense) = sparse_and_dense()
    monkeypatch.setattr("mmssl_trainer.embeddings.SCORES", 1000)  # several blocks
    rng = np.random.default_rng(1)
    seen, heldout = (sp.csr_array((rng.random((70, 50)) < share).astype(np.float32)) for share in (0.3, 0.1))
    popularity = rng.integers(0, 50, 50) * 60 + np.arange(50)  # all different
    popularity[12] = popularity[11]
    graph = InteractionGraph.from_scipy(seen)
    ours = Ranking(dense if dense_items else items, popularity, graph)
    plain = Ranking(dense, popularity, graph)
    for index, k in ((torch.arange(70), 9), (torch.tensor([5, 3, 40]), 50), (torch.arange(0), 4)):
        found = ours.best(take(users, index), index, k)
        expected = plain.best(dense_users[index], index, k)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    tables = users, (dense if dense_items else items)
    assert ranking_metrics(*tables, heldout, [3, 20], graph, popularity=popularity) == ranking_metrics(
        dense_users, dense, heldout, [3, 20], graph, popularity=popularity
    )


def test_keys_of_sparse_rows():
    (users, dense), (items, _) = sparse_and_dense()
    assert np.array_equal(row_keys(users), row_keys(dense))
    ends = users.indptr + (np.arange(71) > 40)  # a zero that is stored
    at = users.indptr[40]
    stored = sp.csr_array((np.insert(users.data, at, 0), np.insert(users.indices, at, 3), ends), shape=users.shape)
    assert stored.nnz == users.nnz + 1
    assert torch.equal(zero_rows(stored), zero_rows(dense)) and zero_rows(users)[[3, 40]].all()
    moved = items[:, np.random.default_rng(0).permutation(12)]
    assert np.array_equal(order_keys(items), order_keys(moved)) and len(set(order_keys(items))) > 30


@pytest.mark.parametrize("system", ["ease", "itemknn", "userknn"])
def test_saved_models_recommend_the_same(system, tmp_path):
    data = catalogue(150, 100)
    fitted = fit(data, configured(system))
    model = Model.of(fitted, data, configured(system))
    save(model, tmp_path / "model.safetensors")
    read = load(tmp_path / "model.safetensors")
    for ours, theirs in ((model.users, read.users), (model.items, read.items)):
        assert type(ours) is type(theirs) and np.array_equal(
            sp.csr_array(ours).toarray(), sp.csr_array(theirs).toarray()
        )
    for first, second in zip(recommend(model, None, 7), recommend(read, None, 7), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("system", ["ease", "itemknn", "userknn"])
def test_commands_go_through(system, tmp_path, capsys):
    whole = catalogue(80, 60)
    train = whole.train.toarray()
    test = np.maximum(whole.test.toarray(), train * (np.arange(60) == 4))
    train[:, 4] = 0
    data = replace(whole, train=sp.csr_array(train), test=sp.csr_array(test))
    place, run = write_plain(data, tmp_path / "data"), str(tmp_path / "run")
    content = [] if system == "userknn" else ["--set", f"{system}.content=1"]
    assert main(["train", "--data", str(place), "--system", system, "--out", run, "--threads", "1", *content]) == 0
    assert "cold items" in capsys.readouterr().out
    assert main(["evaluate", run, "--k", "5"]) == 0
    assert main(["evaluate", run, "--cold"]) == (0 if content else 2)
    assert main(["recommend", run, "--users", "3", "--k", "2"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.md").read_text()
    expected = json.loads((tmp_path / "run" / "result.json").read_text())["breakdown"]["cold items"]
    row = f"| cold items | {expected['users']} | {expected['pairs']} | {expected['recall@20']:.4f} |"
    assert row in page and "### New users and cold items" in page
    capsys.readouterr()
    assert main(["train", "--resume", run, "--epochs", "500"]) == 2
    assert "has no training to resume" in capsys.readouterr().err


def test_one_process_only_ranks_sparse_embeddings(tmp_path, monkeypatch):
    data = catalogue(60, 40)
    path = tmp_path / "model.safetensors"
    save(Model.of(fit(data, configured("userknn")), data, configured("userknn")), path)
    monkeypatch.setattr("mmssl_fast.distributed.current", lambda: Ranks(rank=0, size=2))
    with pytest.raises(InputError, match=r"model\.safetensors: has sparse embeddings, .* leave out --ranks"):
        load(path)


def test_damaged_sparse_embeddings_are_refused(tmp_path):
    from mmssl_trainer.files import read_header, write_tensors
    from safetensors import safe_open
    from safetensors.torch import load_file

    data = catalogue(60, 40)
    path = tmp_path / "model.safetensors"
    save(Model.of(fit(data, configured("itemknn")), data, configured("itemknn")), path)
    whole = load_file(path)
    with safe_open(path, "pt") as file:
        header = read_header(file.metadata())
    for name, value, said in (
        ("indices", torch.full_like(whole["embedding.items.indices"], 40), "embedding.items contains an index outside"),
        ("values", whole["embedding.items.values"][:-1], "embedding.items.values has"),
        ("columns", torch.tensor([40, 40]), "embedding.items is not a sparse matrix"),
    ):
        write_tensors(path, whole | {f"embedding.items.{name}": value}, header)
        with pytest.raises(InputError, match=said):
            load(path)


def test_similar_items_of_ease_are_those_of_its_weights():
    """The cosines are those of Q S Qᵀ = I − λ P. Those of the rows of Q alone are 0 for the only item of some user."""
    data = catalogue(60, 150)
    train = data.train.tolil()
    train[0] = 0
    train[0, 3] = 1
    data = replace(data, train=sp.csr_array(train.tocsr()))
    fitted = fit(data, configured("ease", ease__penalty=10.0))
    x = data.train.toarray().astype(np.float64)
    smooth = np.eye(150) - 10.0 * np.linalg.inv(x.T @ x + 10.0 * np.eye(150))
    norms = np.sqrt(np.diag(smooth))
    items = fitted.items.double().numpy()
    warm = x.any(0)
    unit = items[warm] / np.linalg.norm(items[warm], axis=1, keepdims=True)
    expected = (smooth / np.where(norms > 0, norms, 1) / np.where(norms > 0, norms, 1)[:, None])[warm][:, warm]
    np.testing.assert_allclose(unit @ unit.T, expected, atol=1e-4)
    others = np.flatnonzero(warm) != 3
    assert expected[np.flatnonzero(warm) == 3][0, others].max() > 0.1
