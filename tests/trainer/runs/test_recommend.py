"""Recommendations by original ids: the right items, nothing seen, whole files or none."""

import csv

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.runs.recommend import recommend, write
from mmssl_trainer.runs.saved_model import Model
from pyarrow import parquet

N_USERS, N_ITEMS = 41, 17


@pytest.fixture(params=["numbers", "text", "index"])
def model(request):
    rng = np.random.default_rng(4)
    kind = rng.integers(0, 8, (N_USERS, N_ITEMS))
    kind[3] = 0  # a user who has everything
    kind[4] = 7  # a user with nothing
    splits = {name: sp.csr_array((kind == at).astype(np.float32)) for at, name in enumerate(("train", "val", "test"))}
    ids = {
        "numbers": (np.arange(N_USERS) * 10 + 5, np.arange(N_ITEMS) * 100),
        "text": (np.array([f"u{n}, ä" for n in range(N_USERS)]), np.array([f'i"{n}' for n in range(N_ITEMS)])),
        "index": (None, None),
    }[request.param]
    data = Dataset("made", "made", N_USERS, N_ITEMS, **splits, features={}, user_ids=ids[0], item_ids=ids[1])
    users, items = (torch.from_numpy(rng.standard_normal((n, 5)).astype(np.float32)) for n in (N_USERS, N_ITEMS))
    return Model(users, items, {}, data, {})


def expected(model, index, k, exclude):
    """(user id, rank, item id, score) written out."""
    data, scores = model.interactions, model.users[index].numpy() @ model.items.numpy().T
    for row, user in enumerate(index):
        splits = ("train",) if exclude == "train" else ("train", "val", "test")
        left = [i for i in range(N_ITEMS) if not any(getattr(data, split)[user, i] for split in splits)]
        for rank, item in enumerate(sorted(left, key=lambda i: (-scores[row, i], i))[:k], 1):
            yield data.original_users([user])[0], rank, data.original_items([item])[0], scores[row, item]


def rows(chunks):
    return [row for chunk in chunks for row in zip(*(column.tolist() for column in chunk), strict=True)]


@pytest.mark.parametrize("exclude", ["train", "all"])
@pytest.mark.parametrize("k, batch", [(1, 4096), (5, 7), (50, 4096)])
def test_recommendations_equal_a_literal_ranking(model, exclude, k, batch):
    got, want = rows(recommend(model, None, k, exclude, batch)), list(expected(model, range(N_USERS), k, exclude))
    assert [row[:3] for row in got] == [row[:3] for row in want]
    np.testing.assert_allclose([row[3] for row in got], [row[3] for row in want], rtol=1e-5, atol=1e-6)


def test_named_users_in_the_order_asked(model):
    ids = model.interactions.original_users([9, 0, 9]).tolist()
    got = rows(recommend(model, [str(one) for one in ids], 2))
    assert [row[0] for row in got] == [ids[0], ids[0], ids[1], ids[1], ids[2], ids[2]]


def test_unknown_user_is_named(model):
    known = str(model.interactions.original_users([1])[0])
    with pytest.raises(InputError, match="'nobody'"):
        recommend(model, [known, "nobody"], 2)


@pytest.mark.parametrize(
    "kwargs, fragment",
    [
        ({"k": 0}, r"k \[0\]"),
        ({"k": 129}, r"k \[129\]: each must be between 1 and 17"),
        ({"exclude": "none"}, "'none'"),
    ],
)
def test_wrong_arguments(model, kwargs, fragment):
    with pytest.raises(InputError, match=fragment):
        recommend(model, None, **kwargs)


@pytest.mark.parametrize("ending", ["csv", "parquet", "CSV"])
def test_files_hold_every_row(model, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    want = rows(recommend(model, None, 4, batch=10))
    assert write(recommend(model, None, 4, batch=10), path) == len(want)
    if ending.lower() == "csv":
        with open(path, newline="", encoding="utf-8") as file:
            header, *got = list(csv.reader(file))
        assert header == ["user", "rank", "item", "score"]
        assert [row[:3] for row in got] == [[str(one) for one in row[:3]] for row in want]
        assert [np.float32(row[3]) for row in got] == [np.float32(row[3]) for row in want]
    else:
        table = parquet.read_table(path)
        assert table.column_names == ["user", "rank", "item", "score"]
        assert list(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)) == want
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_user_with_nothing_left(model, tmp_path, ending):
    """The user who has everything gets no row, and a file of such users alone is a table without rows."""
    user = str(model.interactions.original_users([3])[0])
    path = tmp_path / f"out.{ending}"
    assert write(recommend(model, [user], 4), path) == 0
    text = path.read_text() if ending == "csv" else ",".join(parquet.read_table(path).column_names)
    assert text.strip() == "user,rank,item,score"


def test_other_extension_is_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        write(recommend(model), tmp_path / "out.json")


def test_missing_folder_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        write(recommend(model), tmp_path / "none" / "out.csv")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_failure_half_way_leaves_the_old_file(model, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    path.write_text("old")

    def failing():
        yield next(recommend(model, None, 4, batch=10))
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write(failing(), path)
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == [path.name]
