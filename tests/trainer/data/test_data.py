"""The trainer's data layer: every layout to the same Dataset, ids, splits, notes, the synthetic catalogue."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg
from data_folders import WRITERS, one_line, pairs, small_dataset, write_features
from mmssl_trainer.data import SPLITS, InputError, load, summarise, synthetic, write_plain
from mmssl_trainer.data.dataset import build
from mmssl_trainer.data.split import split_per_user

TIKTOK = Path(os.environ.get("MMSSL_FAST_TIKTOK", Path(__file__).parents[4] / "shared/data/tiktok"))


@pytest.fixture(scope="module")
def small():
    return small_dataset()


# layouts


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_dataset(layout, small, tmp_path):
    WRITERS[layout](small, tmp_path)
    data = load(tmp_path)
    assert data.layout == layout.split("_")[0] and data.name == tmp_path.name
    assert (data.n_users, data.n_items) == (40, 30)
    assert data.fingerprint == small.fingerprint
    for split in SPLITS:
        matrix = getattr(data, split)
        assert matrix.format == "csr" and matrix.dtype == np.float32 and matrix.shape == (40, 30)
        assert (matrix != getattr(small, split)).nnz == 0 and (matrix.data == 1).all()
    assert data.modalities == ["image", "text"]
    for modality in data.modalities:
        np.testing.assert_array_equal(data.features[modality], small.features[modality])
    assert data.user_ids is None and data.item_ids is None
    assert "1 of 30 items have no training interactions" in data.notes


@pytest.mark.parametrize("layout", WRITERS)
def test_modalities_are_chosen_and_ordered_by_the_caller(layout, small, tmp_path):
    WRITERS[layout](small, tmp_path)
    assert load(tmp_path, modalities=["text", "image"]).modalities == ["text", "image"]
    assert load(tmp_path, modalities=["text"]).fingerprint == small.with_modalities(["text"]).fingerprint
    without = load(tmp_path, modalities=[])
    assert without.features == {} and without.n_items == 30
    with pytest.raises(InputError) as caught:
        load(tmp_path, modalities=["audio"])
    one_line(caught, tmp_path, "audio_feat", "image, text")


def test_float16_features_stay_float16_and_others_become_float32(small, tmp_path):
    write_plain(small, tmp_path)
    for dtype, kept in (
        ("<f2", "float16"),
        (">f2", "float16"),
        ("<f8", "float32"),
        (">f4", "float32"),
        ("<i2", "float32"),
    ):
        values = np.asfortranarray(small.features["image"].astype(dtype))
        np.save(tmp_path / "image_feat.npy", values)
        read = load(tmp_path).features["image"]
        assert read.dtype == kept and read.flags.c_contiguous and read.dtype.isnative
        np.testing.assert_array_equal(read, values.astype(kept))


def test_folder_that_fits_several_layouts_needs_a_choice(small, tmp_path):
    WRITERS["hkuds"](small, tmp_path)
    WRITERS["mmrec"](small, tmp_path)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, tmp_path, "hkuds and mmrec", "layout")
    assert load(tmp_path, layout="mmrec").layout == "mmrec"


def test_folder_that_fits_no_layout_lists_what_each_needs(small, tmp_path):
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, tmp_path, "trnMat.pkl", "train.json", ".inter", "interactions.csv")
    (tmp_path / "5-core").mkdir()
    WRITERS["hkuds"](small, tmp_path / "5-core")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "5-core")
    with pytest.raises(InputError) as caught:
        load(tmp_path, layout="netflix")
    one_line(caught, "netflix", "plain")


def test_hkuds_without_matrix_takes_its_sizes_from_ids_and_features(small, tmp_path):
    WRITERS["hkuds"](small, tmp_path)
    (tmp_path / "train_mat").unlink()
    assert load(tmp_path).fingerprint == small.fingerprint


def test_hkuds_matrix_with_other_pairs_is_noted(small, tmp_path):
    WRITERS["hkuds"](small, tmp_path)
    other = sp.csr_matrix(np.eye(40, 30))
    (tmp_path / "train_mat").write_bytes(pickle.dumps(other))
    data = load(tmp_path)
    assert data.fingerprint == small.fingerprint
    assert any("train_mat and train.json have different interactions" in note for note in data.notes)


# ids


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_original_ids_are_kept(table, small, tmp_path):
    users = np.array([f"user {at:02d}" for at in range(40)])
    items = np.array([f"B00{at * 7919 % 1000:03d}" for at in range(30)])
    named = build(
        "named", "made", (40, 30), {s: tuple(np.array(pairs(small, s)).T) for s in SPLITS}, small.features, users, items
    )
    write_plain(named, tmp_path, table)
    data = load(tmp_path)
    assert data.fingerprint == small.fingerprint
    assert data.user_ids.tolist() == users.tolist() and data.item_ids.tolist() == items.tolist()
    assert data.original_items([2, 0]).tolist() == [items[2], items[0]]
    assert data.find_users(["user 07", "user 00"]).tolist() == [7, 0]
    with pytest.raises(InputError) as caught:
        data.find_users(["user 7"])
    one_line(caught, "user 7")


def test_ids_are_integers_only_when_every_one_is_written_as_one(tmp_path):
    np.save(tmp_path / "image_feat.npy", np.ones((2, 3), np.float32))
    (tmp_path / "interactions.csv").write_text("user,item\n10,0\n9,1\n-3,1\n9223372036854775807,0\n")
    data = load(tmp_path)
    assert data.user_ids.dtype == np.int64 and data.user_ids.tolist() == [-3, 9, 10, 2**63 - 1]
    assert data.find_users([10, "-3"]).tolist() == [2, 0]
    for text in ("007", "+7", "9223372036854775808", "7.0"):
        (tmp_path / "interactions.csv").write_text(f"user,item\n10,0\n9,1\n{text},1\n")
        data = load(tmp_path)
        assert data.user_ids.tolist() == sorted(["10", "9", text])


def test_rows_of_text_items_follow_the_list_and_are_refused_without_one(tmp_path):
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "image_feat.npy", features)
    (tmp_path / "interactions.csv").write_text("item,user,price\npear,ann,3\napple,ann,2\nfig,bob,1\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "row 1 has item 'pear'", "3 rows of image_feat.npy", "to_csv('items.csv', index=False)")
    assert load(tmp_path, modalities=[]).item_ids.tolist() == ["apple", "fig", "pear"]
    (tmp_path / "items.csv").write_text("item,colour\npear,green\nfig,blue\napple,red\n")
    data = load(tmp_path)
    assert data.item_ids.tolist() == ["pear", "fig", "apple"]
    assert data.train.toarray().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert data.notes[:2] == ["interactions.csv: column price is not read", "items.csv: column colour is not read"]
    rows = "features: row 0 is item 'pear', row 1 is item 'fig', row 2 is item 'apple'"
    assert rows in data.notes


def test_listed_integer_items_may_be_any_numbers_and_lack_interactions(tmp_path):
    np.save(tmp_path / "image_feat.npy", np.ones((3, 2), np.float32))
    (tmp_path / "interactions.csv").write_text("user,item\n1,900\n2,70\n")
    (tmp_path / "items.csv").write_text("item\n900\n5\n70\n")
    data = load(tmp_path)
    assert data.item_ids.tolist() == [900, 5, 70] and data.train.toarray().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_quoted_ids_with_commas_are_one_id(tmp_path):
    np.save(tmp_path / "image_feat.npy", np.ones((2, 2), np.float32))
    (tmp_path / "interactions.csv").write_bytes(
        '\ufeff"user","item"\r\n"Doe, Ann","x ""1"""\r\n\r\n"Ünal",y\r\n'.encode()
    )
    (tmp_path / "items.csv").write_text('item\n"x ""1"""\ny\n')
    data = load(tmp_path)
    assert data.user_ids.tolist() == ["Doe, Ann", "Ünal"] and data.item_ids.tolist() == ['x "1"', "y"]


# splits and notes


def test_split_is_8_1_1_per_user_and_independent_of_the_order():
    rng = np.random.default_rng(0)
    degree = np.array([1, 2, 3, 9, 10, 19, 20, 100])
    users = np.repeat(np.arange(8), degree)
    items = np.concatenate([rng.permutation(1000)[:n] for n in degree])
    splits = split_per_user(users, items, seed=5)
    counts = {split: np.bincount(splits[split][0], minlength=8).tolist() for split in SPLITS}
    assert counts == {
        "train": [1, 2, 1, 7, 8, 17, 16, 80],
        "val": [0, 0, 1, 1, 1, 1, 2, 10],
        "test": [0, 0, 1, 1, 1, 1, 2, 10],
    }
    together = sorted(pair for side in splits.values() for pair in zip(*(s.tolist() for s in side), strict=True))
    assert together == sorted(zip(users.tolist(), items.tolist(), strict=True))
    order = rng.permutation(len(users))
    again = split_per_user(np.append(users[order], users[:3]), np.append(items[order], items[:3]), seed=5)
    other = split_per_user(users, items, seed=6)
    for split in SPLITS:
        np.testing.assert_array_equal(splits[split], again[split])
    assert not np.array_equal(splits["test"], other["test"])


def test_split_chooses_every_place_equally_often():
    users, items = np.repeat(np.arange(4000), 10), np.tile(np.arange(10), 4000)
    tested = np.bincount(split_per_user(users, items)["test"][1], minlength=10)
    assert tested.sum() == 4000 and abs(tested - 400).max() < 5 * 19  # a binomial's standard deviation is 19


def test_split_is_made_where_none_is_given(small, tmp_path):
    every = [pair for split in SPLITS for pair in pairs(small, split)]
    for name in ("plain", "mmrec", "hkuds"):
        folder = tmp_path / name
        folder.mkdir()
        write_features(small, folder)
        if name == "plain":
            (folder / "interactions.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in every))
        elif name == "mmrec":
            (folder / "a.inter").write_text("userID\titemID\n" + "".join(f"{u}\t{i}\n" for u, i in every[::-1]))
        else:
            listed = {str(user): [i for u, i in every if u == user] for user in range(40)}
            (folder / "train.json").write_text(json.dumps(listed))
    first, *others = (load(tmp_path / name, seed=1) for name in ("plain", "mmrec", "hkuds"))
    assert all(other.fingerprint == first.fingerprint for other in others)
    assert load(tmp_path / "plain", seed=2).fingerprint != first.fingerprint
    assert first.train.nnz + first.val.nnz + first.test.nnz == len(every) and first.val.nnz > 0
    assert any("split 8:1:1 at random per user, seed 1" in note for note in first.notes)


def test_duplicates_are_merged_and_overlaps_dropped_with_a_note(tmp_path):
    np.save(tmp_path / "image_feat.npy", np.ones((4, 2), np.float32))
    rows = [
        "1,0,train",
        "1,0,train",
        "1,1,train",
        "1,1,val",
        "1,2,val",
        "1,2,test",
        "1,3,test",
        "2,0,train",
        "2,0,test",
    ]
    (tmp_path / "interactions.csv").write_text("user,item,split\n" + "\n".join(rows))
    data = load(tmp_path)
    assert (pairs(data, "train"), pairs(data, "val"), pairs(data, "test")) == (
        [(0, 0), (0, 1), (1, 0)],
        [],
        [(0, 2), (0, 3)],
    )
    assert data.notes == [
        "features: row 0 is item 0, row 1 is item 1, row 3 is item 3",
        "train: 1 duplicate pair merged",
        "val: 1 pair dropped, also in the training set",
        "test: 1 pair dropped, also in the training set",
        "val: 1 pair dropped, also in the test set",
        "2 of 4 items have no training interactions",
        "val: no interactions",
    ]


def test_matrix_values_other_than_one_are_noted(small, tmp_path):
    WRITERS["diffmm"](small, tmp_path)
    matrix = sp.coo_matrix(small.train)
    matrix.data[:2] = 5
    matrix = sp.coo_matrix(
        (np.append(matrix.data, 0), (np.append(matrix.row, 0), np.append(matrix.col, 29))), shape=matrix.shape
    )
    (tmp_path / "trnMat.pkl").write_bytes(pickle.dumps(matrix))
    data = load(tmp_path)
    assert data.fingerprint == small.fingerprint
    assert data.notes[:2] == [
        "trnMat.pkl: 1 stored zeros ignored",
        "trnMat.pkl: values other than 1 count as 1",
    ]


def test_fingerprint_tells_data_apart(small):
    features = {name: values.copy() for name, values in small.features.items()}
    splits = {split: tuple(np.array(pairs(small, split)).T) for split in SPLITS}
    assert build("a", "b", (40, 30), splits, features).fingerprint == small.fingerprint
    swapped = {"train": splits["train"], "val": splits["test"], "test": splits["val"]}
    changed = {name: values.copy() for name, values in features.items()}
    changed["text"][3, 1] = np.nextafter(changed["text"][3, 1], np.float32(9))
    assert small.with_modalities(["text", "image"]).fingerprint == small.fingerprint
    renamed = {"image": features["image"], "audio": features["text"]}
    variants = [
        ((40, 30), swapped, features),
        ((40, 30), splits, changed),
        ((40, 30), splits, renamed),
        ((41, 30), splits, features),
    ]
    prints = {build("a", "b", *variant).fingerprint for variant in variants} | {small.fingerprint}
    assert len(prints) == 5


# summary, synthetic catalogue, TikTok


def test_summary_counts_what_is_there(small, tmp_path):
    features = dict(small.features, image=small.features["image"] * 0)
    splits = {"train": (np.array([0, 0, 0, 2]), np.array([1, 2, 3, 1])), "test": (np.array([2]), np.array([2]))}
    found = summarise(build(tmp_path, "made", (4, 30), splits, features))
    assert json.loads(json.dumps(found)) == found
    assert found["interactions"] == {"train": 4, "val": 0, "test": 1} and found["density"] == 4 / 120
    assert found["user_degree"] == {"min": 0, "25%": 0, "50%": 0, "75%": 1, "95%": 3, "max": 3, "mean": 1.0}
    assert found["item_degree"]["max"] == 2
    image, text = found["modalities"]
    assert (image["width"], image["norm_max"], image["zero_rows"]) == (5, 0.0, 30)
    assert text["norm_max"] == pytest.approx(np.linalg.norm(small.features["text"], axis=1).max())
    assert "2 of 4 users have no training interactions" in found["notes"]


def test_synthetic_catalogue_follows_from_its_seed():
    first, again, other = synthetic(seed=1), synthetic(seed=1), synthetic(seed=2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert 5 < first.train.nnz / first.n_users < 7 and first.val.nnz > 0 and first.test.nnz > 0
    assert first.modalities == ["image", "text"] and first.features["image"].shape == (1000, 64)
    with pytest.raises(InputError) as caught:
        synthetic(n_items=5)
    one_line(caught, "20 items")


def _recall_at_20(data, scores):
    scores = np.where(data.train.toarray() > 0, -np.inf, scores)
    top = np.argpartition(-scores, 20, axis=1)[:, :20]
    test = data.test.toarray()
    relevant = test.sum(axis=1)
    return (np.take_along_axis(test, top, axis=1).sum(axis=1)[relevant > 0] / relevant[relevant > 0]).mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_synthetic_features_help_beyond_collaboration(seed):
    data = synthetic(seed=seed)
    train = data.train.toarray().astype(np.float64)
    degree, popularity = np.maximum(train.sum(axis=1, keepdims=True), 1), train.sum(axis=0)
    normal = train / np.sqrt(degree) / np.sqrt(np.maximum(popularity, 1))
    left, values, right = scipy.sparse.linalg.svds(normal, k=16, v0=np.ones(data.n_items))
    popular = _recall_at_20(data, np.tile(popularity, (data.n_users, 1)))
    collaborative = max(_recall_at_20(data, (left[:, -k:] * values[-k:]) @ right[-k:]) for k in (8, 16))
    scores = 0.1 * np.log1p(popularity)
    for features in data.features.values():
        centred = features - features.mean(axis=0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        scores = scores + train / degree @ unit @ unit.T
    with_features = _recall_at_20(data, scores)
    assert popular < 0.1 and collaborative > 2 * popular
    assert with_features > 3 * popular and with_features > 1.2 * collaborative


@pytest.mark.skipif(not (TIKTOK / "trnMat.pkl").exists(), reason="TikTok data not there (MMSSL_FAST_TIKTOK)")
def test_tiktok_holds_what_its_readme_says(tmp_path):
    data = load(TIKTOK)
    assert (data.layout, data.n_users, data.n_items) == ("diffmm", 9308, 6710)
    assert (data.train.nnz, data.val.nnz, data.test.nnz) == (59541, 3051, 6130)
    assert np.count_nonzero(np.diff(data.train.indptr)) == 9298
    assert np.diff(data.val.indptr).max() == 1 and np.diff(data.test.indptr).max() == 1
    assert {name: (values.shape, values.dtype.name) for name, values in data.features.items()} == {
        "image": ((6710, 128), "float16"),
        "audio": ((6710, 128), "float16"),
    }
    norms = np.linalg.norm(data.features["image"].astype(np.float32), axis=1)
    assert abs(np.median(norms) - 33) < 1
    assert load(write_plain(data, tmp_path / "plain", "parquet")).fingerprint == data.fingerprint
