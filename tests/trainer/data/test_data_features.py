"""Which item a feature row belongs to: files with ids in any order, files in the items' order, items without a row."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_folders import WRITERS, one_line, small_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmssl_trainer import describe, prepare_data
from mmssl_trainer.data import InputError, load, npy
from mmssl_trainer.training.loop import fit
from pyarrow import csv, parquet

ENDS = ("parquet", "npz", "safetensors")


def write_named(folder, name, ids, values, end):
    """<name>_feat.<end> of ids, integers or texts, and their rows."""
    ids, path = np.asarray(ids), folder / f"{name}_feat.{end}"
    if end == "parquet":
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        parquet.write_table(pa.table({"item": ids.tolist(), "vector": vectors}), path)
    elif end == "npz":
        np.savez(path, ids=ids, features=values)
    else:
        from safetensors.numpy import save_file

        if ids.dtype.kind == "U":
            encoded = np.char.encode(ids, "utf-8")
            ids = encoded.view("u1").reshape(len(ids), -1)
        save_file({"ids": ids, "features": np.ascontiguousarray(values)}, path)


@pytest.fixture
def shop(tmp_path):
    """(folder, ids in the order in which the features were made, features): text ids, no list of items."""
    rng = np.random.default_rng(0)
    ids = np.array([f"B{n * 7919 % 1000:03d}é" for n in range(12)])
    rows = [f"u{user},{ids[(user * 5 + n) % 12]}" for user in range(9) for n in range(4)]
    (tmp_path / "interactions.csv").write_text("user,item\n" + "\n".join(rows))
    return tmp_path, ids, rng.standard_normal((12, 3)).astype("f4")


@pytest.mark.parametrize("end", ENDS)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), dtype=st.sampled_from(["f2", "f4", "f8", "i2"]))
def test_rows_with_ids_reach_their_items_in_any_order(end, order, dtype, shop):
    folder, ids, values = shop
    values = (100 * values).astype(dtype)
    write_named(folder, "image", ids[order], values[order], end)
    data = load(folder)
    assert data.item_ids.tolist() == sorted(ids.tolist())
    kept = np.float16 if dtype == "f2" else np.float32
    expected = values.astype(kept)[np.argsort(ids)]
    assert data.features["image"].dtype == kept
    np.testing.assert_array_equal(data.features["image"], expected)
    assert f"image_feat.{end}: rows are assigned to items by id" in data.notes


def test_rows_with_ids_give_the_model_of_rows_in_the_listed_order(shop):
    """The three ways to give the same features: in the listed order, without a list, with ids in another order."""
    from mmssl_trainer.config.load import load as configuration

    folder, ids, values = shop
    asked = {"model.system": "vbpr", "model.dim": 4, "train.epochs": 2, "train.batch": 8}
    config = configuration(None, {key: (value, "test") for key, value in asked.items()})
    np.save(folder / "image_feat.npy", values)
    with pytest.raises(InputError, match="items of the 12 rows of"):
        load(folder)
    (folder / "items.csv").write_text("item\n" + "\n".join(ids))
    listed = load(folder)
    (folder / "image_feat.npy").unlink()
    write_named(folder, "image", ids[::-1], values[::-1], "npz")
    named = load(folder)
    assert named.fingerprint == listed.fingerprint
    first, second = (fit(data, config) for data in (listed, named))
    assert first.items.equal(second.items) and first.users.equal(second.users)


@pytest.mark.parametrize("layout", ["diffmm", "hkuds", "mmrec"])
def test_layouts_of_indices_take_rows_with_integer_ids(layout, tmp_path):
    small = small_dataset()
    WRITERS[layout](small, tmp_path)
    (tmp_path / "image_feat.npy").unlink()
    (tmp_path / "text_feat.npy").unlink()
    order = np.random.default_rng(1).permutation(30)
    write_named(tmp_path, "image", order, small.features["image"][order], "npz")
    write_named(tmp_path, "text", order, small.features["text"][order], "parquet")
    assert load(tmp_path).fingerprint == small.fingerprint


def test_item_without_a_row_is_refused_or_gets_the_mean(shop):
    folder, ids, values = shop
    write_named(folder, "image", ids[2:], values[2:], "npz")
    with pytest.raises(InputError) as caught:
        load(folder)
    one_line(caught, "image_feat.npz", "no row for 2 of 12 items", ids[0], ids[1], "--missing-features mean")
    data = load(folder, missing_features="mean")
    place = sorted(ids.tolist()).index(ids[0])
    np.testing.assert_allclose(data.features["image"][place], values[2:].mean(0), rtol=1e-6)
    assert any("2 of 12 items have no row" in note for note in data.notes)


def write_marked(folder, ids, values, missing, end):
    """Like write_named, with the rows `missing` marked."""
    values = values.copy()
    values[missing] = np.nan
    if end == "parquet":
        rows = [None if np.isnan(row).any() else row.tolist() for row in values]
        table = pa.table({"item": ids.tolist(), "v": pa.array(rows, pa.list_(pa.float32()))})
        parquet.write_table(table, folder / "image_feat.parquet", row_group_size=2)
    elif end == "npy":
        np.save(folder / "image_feat.npy", values)
        (folder / "items.csv").write_text("item\n" + "\n".join(ids))
    else:
        write_named(folder, "image", ids, values, end)


@pytest.mark.parametrize("end", [*ENDS, "npy"])
@pytest.mark.parametrize("missing", [[0, 1, 2], [5], [10, 11]])
def test_marked_rows_are_missing_whatever_the_option_says(shop, end, missing):
    """The first row groups of a Parquet file may have no vector at all."""
    folder, ids, values = shop
    write_marked(folder, ids, values, missing, end)
    data = load(folder)
    there = np.isin(data.item_ids, ids[missing], invert=True)
    found = data.features["image"]
    np.testing.assert_array_equal(np.isnan(found).all(1), ~there)
    order = [ids.tolist().index(item) for item in data.item_ids]
    np.testing.assert_array_equal(found[there], values[order][there])
    assert f"image_feat.{end}: {len(missing)} of 12 items have no features; the model leaves this" in " ".join(
        data.notes
    )
    mean = load(folder, missing_features="mean").features["image"]
    np.testing.assert_allclose(mean[~there], np.tile(found[there].mean(0), (len(missing), 1)), rtol=1e-5)


def test_item_without_a_row_can_be_masked(shop):
    folder, ids, values = shop
    write_marked(folder, ids[2:], values[2:], [0], "npz")
    data = load(folder, missing_features="mask")
    gone = np.isnan(data.features["image"]).all(1)
    assert sorted(data.item_ids[gone]) == sorted(ids[:3])
    notes = " ".join(data.notes)
    assert "2 of 12 items have no row" in notes and "3 of 12 items have no features" in notes
    with pytest.raises(InputError, match="no row for 2 of 12 items"):
        load(folder)


@pytest.mark.parametrize("end", [*ENDS, "npy"])
def test_a_file_without_any_features_is_refused(shop, end):
    folder, ids, values = shop
    write_marked(folder, ids, values, range(12), end)
    with pytest.raises(InputError) as caught:
        load(folder)
    one_line(caught, f"image_feat.{end}", "no values in any row" if end == "parquet" else "no item has features")


def test_whole_numbers_with_missing_rows(shop):
    folder, ids, _ = shop
    rows = [None if n == 3 else [n, n + 1] for n in range(12)]
    parquet.write_table(pa.table({"item": ids.tolist(), "v": rows}), folder / "image_feat.parquet")
    data = load(folder)
    found = dict(zip(data.item_ids.tolist(), data.features["image"].tolist(), strict=True))
    assert found[ids[5]] == [5, 6] and np.isnan(found[ids[3]]).all()


@pytest.mark.parametrize("rule", ["refuse", "mean"])
@pytest.mark.parametrize("end", ["parquet", "npy"])
def test_prepared_data_keep_missing_rows(shop, tmp_path_factory, end, rule):
    folder, ids, values = shop
    write_marked(folder, ids, values, [4, 7], end)
    pairs = csv.read_csv(folder / "interactions.csv")  # Parquet is prepared in batches
    parquet.write_table(pairs, folder / "interactions.parquet")
    (folder / "interactions.csv").unlink()
    target = tmp_path_factory.mktemp("prepared") / "data"
    prepared, data = prepare_data(folder, target, missing_features=rule), load(folder, missing_features=rule)
    assert prepared.fingerprint == data.fingerprint == load(target).fingerprint
    np.testing.assert_array_equal(load(target).features["image"], data.features["image"])
    assert sorted(prepared.notes) == sorted(data.notes)
    assert describe(data)["modalities"][0]["missing_rows"] == (2 if rule == "refuse" else 0)


def test_rows_of_unlisted_items_are_left_out_with_a_note_and_others_become_items(shop):
    folder, ids, values = shop
    write_named(folder, "image", [*ids, "new"], np.vstack([values, values[:1]]), "npz")
    assert load(folder).n_items == 13
    (folder / "items.csv").write_text("item\n" + "\n".join(ids))
    data = load(folder)
    assert data.n_items == 12
    assert "image_feat.npz: 1 row of unknown items ignored" in data.notes


def _objects(folder):
    np.savez(folder / "image_feat.npz", ids=np.array(["a", None], object), features=np.ones((2, 2)))


WRONG = {
    "twice": (
        lambda f: write_named(f, "image", ["a", "b", "a"], np.ones((3, 2), "f4"), "npz"),
        "row 3 repeats the item 'a'",
    ),
    "short": (lambda f: np.savez(f / "image_feat.npz", ids=np.arange(3), x=np.ones((2, 2))), "3 ids for 2 rows"),
    "no ids": (lambda f: np.savez(f / "image_feat.npz", x=np.ones((2, 2))), "contains 'x'; it must contain ids"),
    "objects": (_objects, "ids.astype(str)"),
    "not finite": (lambda f: write_named(f, "image", ["a"], np.array([[1, np.inf]], "f4"), "npz"), "row 0, column 1"),
    "uneven": (
        lambda f: parquet.write_table(pa.table({"item": [1, 2], "v": [[1.0], [1.0, 2.0]]}), f / "image_feat.parquet"),
        "row 2 has 2 values in v, but row 1 has 1",
    ),
    "empty value": (
        lambda f: parquet.write_table(pa.table({"item": [1, 2], "v": [[1.0], [None]]}), f / "image_feat.parquet"),
        "row 2 has an empty value in v",
    ),
    "no vector": (lambda f: parquet.write_table(pa.table({"item": [1]}), f / "image_feat.parquet"), "has 0 columns"),
    "damaged": (lambda f: (f / "image_feat.safetensors").write_bytes(b"\0" * 40), "safetensors"),
    "no zip": (lambda f: (f / "image_feat.npz").write_bytes(b"PK\3\4" + bytes(40)), "not a readable .npz"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_feature_files_with_ids_are_refused(case, shop):
    write, part = WRONG[case]
    write(shop[0])
    with pytest.raises(InputError) as caught:
        load(shop[0])
    one_line(caught, "image_feat.", part)


def test_archive_that_unfolds_far_is_refused(shop):
    np.savez_compressed(shop[0] / "image_feat.npz", ids=shop[1], features=np.zeros((12, 2_000_000), "f8"))
    with pytest.raises(InputError) as caught:
        load(shop[0])
    one_line(caught, "image_feat.npz", "decompresses to far more")


@pytest.mark.parametrize("layout", ["diffmm", "hkuds", "mmrec", "plain_csv"])
def test_ids_that_seem_to_count_from_one_are_noted_in_every_layout(layout, tmp_path):
    small = small_dataset()
    from mmssl_trainer.data.dataset import build

    splits = {split: getattr(small, split).tocoo() for split in ("train", "val", "test")}
    shifted = {split: (pairs.row + 1, pairs.col + 1) for split, pairs in splits.items()}
    data = build("shifted", "made", (41, 31), shifted, {"image": np.ones((31, 2), "f4")})
    WRITERS[layout](data, tmp_path)
    for name in ("items.csv", "users.csv"):
        (tmp_path / name).unlink(missing_ok=True)
    notes = " | ".join(load(tmp_path).notes)
    assert "item 0 has no interactions. If your item ids count from 1, every item has the features" in notes
    assert ("user 0 has no interactions" in notes) == (layout != "plain_csv")
    assert "features: row 0 is item 0, row 1 is item 1, row 30 is item 30" in notes
    original = tmp_path / "original"
    original.mkdir()
    WRITERS[layout](small, original)
    assert "has no interactions" not in " | ".join(load(original).notes)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_read_without_features(layout, tmp_path):
    WRITERS[layout](small_dataset(), tmp_path)
    for path in tmp_path.glob("*_feat.*"):
        path.unlink()
    data = load(tmp_path)
    assert data.features == {} and data.train.nnz == small_dataset().train.nnz


def test_several_processes_map_features(tmp_path, monkeypatch):
    """They have the same values as in memory, also after their memory was released and with the mean for missing
    rows, which must not be lost."""
    values = np.random.default_rng(0).standard_normal((6, 3)).astype("f4")
    values[2] = np.nan
    np.save(tmp_path / "image_feat.npy", values)
    np.save(tmp_path / "text_feat.npy", values.astype("f8"))
    (tmp_path / "interactions.csv").write_text("user,item\n" + "\n".join(f"{u},{u % 6}" for u in range(40)))
    for rule in ("mask", "mean"):
        monkeypatch.setenv("WORLD_SIZE", "1")
        alone = load(tmp_path, missing_features=rule)
        monkeypatch.setenv("WORLD_SIZE", "2")
        several = load(tmp_path, missing_features=rule)
        several.release_features()
        assert several.fingerprint == alone.fingerprint and several.notes == alone.notes
        for name, expected in alone.features.items():
            np.testing.assert_array_equal(several.features[name], expected)
            assert not is_mapped(expected)
        assert is_mapped(several.features["image"]) and not is_mapped(several.features["text"])


def is_mapped(values):
    return npy._mapping(values) is not None


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="resident pages are read from /proc")
def test_reading_features_of_several_processes_leaves_no_pages(tmp_path, monkeypatch):
    np.save(tmp_path / "image_feat.npy", np.ones((2000, 1000), "f4"))
    pairs = "\n".join(f"{user},{item}" for item in range(2000) for user in (item % 7, 7))
    (tmp_path / "interactions.csv").write_text(f"user,item\n{pairs}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = load(tmp_path)
    assert resident(tmp_path / "image_feat.npy") < 1 << 20
    describe(data)
    assert resident(tmp_path / "image_feat.npy") < 1 << 20
    values = data.features["image"]
    assert values.sum() == 2000 * 1000
    assert resident(tmp_path / "image_feat.npy") > 7 << 20
    values[3] = 0
    data.release_features()
    assert values.sum() == 1999 * 1000  # what was modified is kept


def resident(path):
    """Bytes of a mapped file that are in the memory of this process."""
    parts = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return sum(1024 * int(re.search(r"^Rss: +(\d+)", part, re.MULTILINE)[1]) for part in parts)


def test_feature_files_in_other_formats_are_named_in_a_note(shop):
    folder, ids, values = shop
    write_named(folder, "text", ids, values, "parquet")
    (folder / "image_feat.csv").write_text("item,a\nx,1\n")
    (folder / "text_feat.parquet.skipped.csv").write_text("item,reason\n")
    notes = [note for note in load(folder).notes if "is not read" in note]
    assert notes == ["image_feat.csv is not read; write the features as .parquet, .npz, .safetensors or .npy"]
