"""data prepare: the same Dataset as the loader's, from tables that are read in batches and from every other layout."""

import datetime
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from data_folders import one_line
from mmssl_trainer import configure, fit, prepare_data
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import SPLITS, InputError, load, summarise, synthetic, write_plain
from mmssl_trainer.data.prepare import grouped, ids, run, splits, stream
from pyarrow import parquet

ROWS = 700


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several batches, groups and blocks in data of this size."""
    monkeypatch.setattr(stream, "_BATCH", 64)
    monkeypatch.setattr(stream, "_PLAIN_BATCH", 50)
    monkeypatch.setattr(grouped, "ROWS", 90)
    monkeypatch.setattr(splits, "_BLOCK", 41)
    monkeypatch.setattr(ids, "_MERGE", 10)


def columns(text=True):
    rng = np.random.default_rng(1)
    users, items = rng.integers(-3, 30, ROWS), rng.integers(0, 45, ROWS)
    return {
        "user": [f"ü{user}" for user in users] if text else users.tolist(),
        "item": [str(item) for item in items] if text else items.tolist(),
        "rating": rng.integers(1, 6, ROWS),
        "timestamp": rng.integers(-40, 40, ROWS),
        "split": rng.choice(["train", "train", "train", "valid", "test"], ROWS).tolist(),
    }


def parts(folder, table, names=("part-0.parquet", "part-1.parquet", "part-2.parquet")):
    folder.mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.take(np.arange(at, len(table), len(names))), folder / name, row_group_size=100)


def spark(folder, table):
    parts(folder / "interactions.parquet", table)
    (folder / "interactions.parquet" / "_SUCCESS").touch()
    (folder / "interactions.parquet" / ".part-0.parquet.crc").write_bytes(b"\0")
    parquet.write_table(table.slice(0, 0), folder / "interactions.parquet" / "part-3.parquet")


def hive(folder, table):
    for split in set(table["split"].to_pylist()):
        chosen = table.filter(pa.compute.equal(table["split"], split)).drop_columns("split")
        parts(folder / "interactions.parquet" / f"split={split}", chosen, ("data_0.parquet",))


def dictionaries(folder, table):
    parts(folder / "interactions.parquet", pa.table({n: table[n].dictionary_encode() for n in ("user", "item")}))


def large_strings(folder, table):
    both = pa.table({name: table[name].cast(pa.large_string()) for name in ("user", "item")})
    parts(folder / "interactions.parquet", both, ("0.parquet", "1.parquet"))


def delta(folder, table):
    table = pa.table({name: table[name].cast(pa.string()) for name in ("user", "item")})
    encoding = dict.fromkeys(("user", "item"), "DELTA_BYTE_ARRAY")
    parquet.write_table(table, folder / "interactions.parquet", use_dictionary=False, column_encoding=encoding)


def one_file(folder, table):
    parquet.write_table(table, folder / "interactions.parquet")


def mixed(folder, table):
    """Integers in one part, text in the other."""
    parts(folder / "interactions.parquet", table, ("part-0.parquet",))
    if pa.types.is_integer(table["item"].type):
        other = table.set_column(1, "item", table["item"].cast(pa.string()))
        parts(folder / "interactions.parquet", other, ("part-1.parquet",))


def same(source, tmp_path, **options):
    expected = load(source, **options)
    seed = options.pop("seed", 0)
    found = prepare_data(source, tmp_path / "prepared", split_seed=seed, **options)
    assert found.fingerprint == expected.fingerprint
    assert found.notes == expected.notes
    left, right = summarise(found), summarise(expected)
    assert {key for key in left if left[key] != right[key]} == {"name", "layout"}
    for side in ("users", "items"):
        index = np.arange(getattr(found, f"n_{side}"))
        one, other = (getattr(data, f"original_{side}")(index) for data in (found, expected))
        assert one.tolist() == other.tolist() and one.dtype.kind == other.dtype.kind
    for split in SPLITS:
        assert (getattr(found, split) != getattr(expected, split)).nnz == 0
    return found


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("write", [spark, hive, dictionaries, large_strings, delta, one_file, mixed])
def test_parquet_in_batches_equals_the_loader(write, text, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write(source, pa.table(columns(text)))
    same(source, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"split": "random", "seed": 5, "split_share": 0.3},
        {"split": "time"},
        {"split": "time", "split_share": 0.25, "min_rating": 3},
        {"split": "last", "split_last": 2, "seed": 3},
        {"min_rating": 4.0},
        {"split_column": "fold"},
    ],
)
def test_splits_and_ratings_equal_the_loader(options, tmp_path):
    rows = columns()
    rows["fold"] = rows["split"][::-1]
    spark(tmp_path / "source", pa.table(rows))
    same(tmp_path / "source", tmp_path, **options)


def test_splits_do_not_depend_on_the_size_of_a_group(tmp_path, monkeypatch):
    spark(tmp_path / "source", pa.table(columns()).drop_columns("split"))
    found = set()
    for at, rows in enumerate((1, 37, 10_000)):
        monkeypatch.setattr(grouped, "ROWS", rows)
        found.add(prepare_data(tmp_path / "source", tmp_path / f"{at}").fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize("kind", [pa.float64(), pa.timestamp("ms"), pa.date32(), pa.int32()])
def test_times_of_every_type(kind, tmp_path):
    times = columns()["timestamp"]
    if pa.types.is_temporal(kind):
        times = [datetime.datetime(2020, 1, 1) + datetime.timedelta(days=int(time)) for time in times]
    table = pa.table({**columns(), "timestamp": pa.array(list(times)).cast(kind, safe=False)})
    spark(tmp_path / "source", table)
    same(tmp_path / "source", tmp_path, split="time")


def test_lists_of_users_and_items(tmp_path):
    table = pa.table(columns(text=False))
    spark(tmp_path / "source", table)
    for side in ("user", "item"):
        listed = list(range(50, -10, -1))
        (tmp_path / "source" / f"{side}s.csv").write_text("\n".join([side, *map(str, listed)]))
    np.save(tmp_path / "source" / "image_feat.npy", np.random.default_rng(0).random((60, 3)).astype(np.float16))
    same(tmp_path / "source", tmp_path)


def test_features_by_row_number_and_by_id(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    spark(source, pa.table({"user": columns()["user"], "item": columns(text=False)["item"]}))
    np.save(source / "image_feat.npy", np.asfortranarray(rng.random((50, 4))))
    np.savez(source / "text_feat.npz", ids=np.arange(50)[::-1], features=rng.random((50, 2)).astype(np.float32))
    found = same(source, tmp_path)
    assert found.modalities == ["image", "text"]
    assert load(tmp_path / "prepared", modalities=["text"]).fingerprint == load(source, modalities=["text"]).fingerprint


def test_features_add_items_without_interactions(tmp_path):
    spark(tmp_path / "source", pa.table(columns()))
    names = [str(item) for item in range(60)] + ["x"]
    np.savez(tmp_path / "source" / "text_feat.npz", ids=np.array(names), features=np.ones((61, 2), np.float32))
    assert same(tmp_path / "source", tmp_path).n_items == 61


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_other_layouts(table, tmp_path):
    write_plain(synthetic(n_users=40, n_items=30), tmp_path / "source", table)
    same(tmp_path / "source", tmp_path)


def test_parts_of_any_name(tmp_path):
    """Dask, DuckDB and Polars do not name their files part-*."""
    table = pa.table(columns())
    parts(tmp_path / "loose", table, ("part.0.parquet", "data_1.parquet", "00000002.parquet"))
    spark(tmp_path / "source", table)
    np.savez(tmp_path / "loose" / "text_feat.npz", ids=np.arange(45), features=np.ones((45, 2), np.float32))
    found = prepare_data(tmp_path / "loose", tmp_path / "out", modalities=["none"])
    assert found.fingerprint == load(tmp_path / "source").fingerprint
    assert prepare_data(tmp_path / "loose", tmp_path / "more").modalities == ["text"]


def test_a_prepared_folder_is_mapped_and_trains_alike(tmp_path):
    write_plain(synthetic(n_users=60, n_items=40), tmp_path / "source", "parquet")
    mapped = prepare_data(tmp_path / "source", tmp_path / "prepared")
    for values in (*mapped.features.values(), mapped.train.indices):
        while isinstance(values, np.ndarray) and not isinstance(values, np.memmap):
            values = values.base
        assert isinstance(values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped.train.data[0] = 2
    config = configure({"model.system": "lightgcn", "train.epochs": 1})
    one, other = (fit(load(tmp_path / name), config) for name in ("source", "prepared"))
    assert (one.users == other.users).all() and (one.items == other.items).all()


BAD = {
    "no user": ({"user": ["a", None, "b"]}, ["part-1.parquet: row 2 has no user"]),
    "empty item": ({"item": ["a", "b", ""]}, ["part-1.parquet: row 3 has no item"]),
    "a control character": ({"user": ["a", "b\n", "b"]}, ["part-1.parquet: row 2 has the user 'b\\n'"]),
    "too long": ({"item": ["a" * 201, "b", "c"]}, ["part-1.parquet: row 1 has the item", "at most 200"]),
    "an unknown split": ({"split": ["train", "training", "test"]}, ["part-1.parquet: row 2 has the split 'training'"]),
    "no rating": ({"rating": [1.0, 2.0, None]}, ["part-1.parquet: row 3 has no rating"]),
    "not a number": ({"rating": [1.0, float("nan"), 2.0]}, ["part-1.parquet: row 2 has the rating nan"]),
    "text as rating": ({"rating": ["1", "2", "3"]}, ["part-1.parquet: column rating contains text"]),
    "floats as ids": ({"user": [1.0, 2.0, 3.0]}, ["part-1.parquet: column user has the type double"]),
    "no column item": ({"item": None}, ["part-1.parquet: has no column item"]),
    "no split in a part": ({"split": None}, ["some parts have no column split"]),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_names_part_row_and_column(change, message, tmp_path):
    source = tmp_path / "source" / "interactions.parquet"
    good = {"user": ["a", "b", "c"], "item": ["x", "y", "z"], "rating": [5.0, 4.0, 3.0], "split": ["train"] * 3}
    parts(source, pa.table(good), ("part-0.parquet",))
    bad = {name: values for name, values in {**good, **change}.items() if values is not None}
    parts(source, pa.table(bad), ("part-1.parquet",))
    with pytest.raises(InputError) as caught:
        prepare_data(tmp_path / "source", tmp_path / "out", min_rating=1)
    one_line(caught, *message)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]  # nothing half-written


def test_the_row_of_a_later_batch_is_counted_from_the_start_of_the_part(tmp_path):
    items = [str(row) for row in range(200)]
    items[150] = "\t"
    one = tmp_path / "source" / "interactions.parquet"
    parts(one, pa.table({"user": items[::-1], "item": items}), ("part-0.parquet",))
    with pytest.raises(InputError) as caught:
        prepare_data(tmp_path / "source", tmp_path / "out")
    one_line(caught, "row 50 has the user '\\t'")  # the users are reversed, and are read first


def test_items_outside_a_list_or_a_feature_file(tmp_path):
    source = tmp_path / "source"
    table = pa.table({"user": [1] * 100, "item": [*range(98), 98, 400]})
    parts(source / "interactions.parquet", table, ("part-0.parquet",))
    np.save(source / "image_feat.npy", np.ones((99, 2), np.float32))
    with pytest.raises(InputError) as caught:
        prepare_data(source, tmp_path / "out")
    one_line(
        caught,
        "part-0.parquet: row 100 has item '400', but image_feat.npy has the rows 0 to 98, and row r belongs",
    )
    (source / "items.csv").write_text("item\n" + "\n".join(map(str, range(99))))
    with pytest.raises(InputError) as caught:
        prepare_data(source, tmp_path / "out")
    one_line(caught, "part-0.parquet: row 100 has the item '400', which is not in items.csv")


@pytest.mark.parametrize("features", [True, False])
def test_an_item_that_appears_between_the_two_passes(features, tmp_path, monkeypatch):
    source, first_pass = tmp_path / "source", run._Preparation._items
    parts(source / "interactions.parquet", pa.table({"user": [1] * 9, "item": [*range(9)]}), ("part-0.parquet",))
    if features:
        np.save(source / "image_feat.npy", np.ones((9, 2), np.float32))

    def changed(*arguments):
        items = first_pass(*arguments)
        later = pa.table({"user": [1] * 9, "item": [*range(8), 400]})
        parts(source / "interactions.parquet", later, ("part-0.parquet",))
        return items

    monkeypatch.setattr(run._Preparation, "_items", changed)
    with pytest.raises(InputError) as caught:
        prepare_data(source, tmp_path / "out")
    one_line(caught, "part-0.parquet: row 9 has the item '400', which was not there before")


def test_too_many_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(ids, "LIMIT", 20)
    spark(tmp_path / "source", pa.table(columns()))
    with pytest.raises(InputError) as caught:
        prepare_data(tmp_path / "source", tmp_path / "out")
    one_line(caught, "users; at most 20 are possible")


def test_damaged_parts(tmp_path):
    spark(tmp_path / "source", pa.table(columns()))
    part = tmp_path / "source" / "interactions.parquet" / "part-1.parquet"
    for content in (b"", b"PAR1", part.read_bytes()[:-20]):
        part.write_bytes(content)
        with pytest.raises(InputError) as caught:
            prepare_data(tmp_path / "source", tmp_path / "out")
        one_line(caught, "part-1.parquet: is not a readable table")


def test_no_interactions(tmp_path):
    spark(tmp_path / "source", pa.table(columns()).slice(0, 0))
    with pytest.raises(InputError, match="the training set is empty"):
        prepare_data(tmp_path / "source", tmp_path / "out")


def spoil_size(folder):
    np.save(folder / "val_indices.npy", np.load(folder / "val_indices.npy")[:-1])


def spoil_item(folder):
    values = np.load(folder / "train_indices.npy")
    values[7] = 10_000
    np.save(folder / "train_indices.npy", values)


def spoil_offsets(folder):
    values = np.load(folder / "train_indptr.npy")
    values[3], values[4] = values[4] + 9, values[3]
    np.save(folder / "train_indptr.npy", values)


def truncate(folder):
    path = folder / "image_feat.npy"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_format(folder):
    path = folder / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 9}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, "val_indices.npy: is int32"),
        (spoil_item, "train_indices.npy: has the item 10000 at position 7"),
        (spoil_offsets, "train_indptr.npy: does not ascend"),
        (truncate, "image_feat.npy: is damaged"),
        (spoil_format, "prepared.json: has the format 9, expected 1"),
        (lambda folder: (folder / "test_indptr.npy").unlink(), "test_indptr.npy: no such file"),
        (lambda folder: (folder / "prepared.json").write_text("[]"), "prepared.json: lacks one of the keys"),
    ],
)
def test_a_damaged_prepared_folder_is_refused(spoil, message, tmp_path):
    write_plain(synthetic(n_users=40, n_items=30), tmp_path / "source", "parquet")
    prepare_data(tmp_path / "source", tmp_path / "out")
    spoil(tmp_path / "out")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "out")
    one_line(caught, message, "prepare the data again")


def test_options_that_a_prepared_folder_does_not_have(tmp_path):
    write_plain(synthetic(n_users=40, n_items=30), tmp_path / "source")
    prepare_data(tmp_path / "source", tmp_path / "out")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "out", split="time")
    one_line(caught, "split = 'time'", "prepared")


def test_the_mean_of_missing_rows_is_not_silently_left_out(tmp_path):
    data = synthetic(n_users=40, n_items=30)
    modality = data.modalities[0]
    data.features[modality][3] = np.nan
    write_plain(data, tmp_path / "source")
    prepare_data(tmp_path / "source", tmp_path / "out")
    prepare_data(tmp_path / "source", tmp_path / "filled", missing_features="mean")
    assert load(tmp_path / "out", missing_features="mask").n_items == 30
    assert load(tmp_path / "filled", missing_features="mean").features[modality].any(1).all()
    with pytest.raises(InputError) as caught:
        load(tmp_path / "out", missing_features="mean")
    one_line(caught, f"{modality}_feat.npy: was prepared with missing rows", "--missing-features mean")


def test_the_command(tmp_path, capsys):
    spark(tmp_path / "source", pa.table(columns()))
    arguments = ["data", "prepare", str(tmp_path / "source"), str(tmp_path / "out"), "--min-rating", "3"]
    assert main(arguments) == 0
    assert "interactions, features: none" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "out"), "--json"]) == 0
    expected = load(tmp_path / "source", min_rating=3).fingerprint
    assert json.loads(capsys.readouterr().out)["fingerprint"] == expected
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
