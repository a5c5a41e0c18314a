"""One table in every form that a reader accepts; ratings, times and splits that it holds; several in one folder."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_folders import one_line, pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from mmssl_trainer.data import SPLITS, InputError, load, summarise
from mmssl_trainer.data.cells import read_columns
from mmssl_trainer.data.ids import read_id_list
from mmssl_trainer.data.split import split_by_time, split_latest
from mmssl_trainer.data.tables import column_names, read_table
from pyarrow import csv, parquet

SHARED = Path(os.environ.get("MMSSL_FAST_DATA", Path(__file__).parents[4] / "shared/data"))


def rows(n=300):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 30, n), rng.integers(0, 40, n)
    split = np.where(rng.random(n) < 0.8, "train", np.where(rng.random(n) < 0.5, "val", "test"))
    users, items = ([f"{side}{n}" for n in ids] for side, ids in (("u", users), ("i", items)))
    return pa.table({"user": users, "item": items, "split": split.tolist()})


def as_text(table, separator=",", mark=b""):
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(delimiter=separator))
    return mark + sink.getvalue().to_pybytes()


def delta(table, path):
    parquet.write_table(
        table,
        path,
        use_dictionary=False,
        column_encoding={"user": "DELTA_BYTE_ARRAY", "item": "DELTA_LENGTH_BYTE_ARRAY"},
    )


def parts(table, folder, count=3):
    folder.mkdir()
    for at in range(count):
        parquet.write_table(table.take(np.arange(at, len(table), count)), folder / f"part-{at:05d}-c000.snappy.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.crc").write_bytes(b"\0")


def hive(table, folder):
    for split in SPLITS:
        place = folder / f"split={split}"
        place.mkdir(parents=True)
        chosen = table.filter(pa.compute.equal(table["split"], split)).drop_columns("split")
        parquet.write_table(chosen, place / "part-0.parquet")


def cast(kind):
    def write(table, f):
        columns = pa.table({name: table[name].cast(kind) for name in table.column_names})
        try:
            parquet.write_table(columns, f / "interactions.parquet")
        except pa.ArrowNotImplementedError:
            if kind != pa.string_view():
                raise
            pytest.skip(f"pyarrow {pa.__version__} cannot write {kind}")

    return write


def categories(table, f):
    encoded = pa.table({name: table[name].dictionary_encode() for name in table.column_names})
    parquet.write_table(encoded, f / "interactions.parquet")


FORMS = {
    "byte order mark": lambda t, f: (f / "interactions.csv").write_bytes(as_text(t, mark=b"\xef\xbb\xbf")),
    "semicolons": lambda t, f: (f / "interactions.csv").write_bytes(as_text(t, ";")),
    "tabs": lambda t, f: (f / "interactions.tsv").write_bytes(as_text(t, "\t").replace(b'"', b"")),
    "gzip": lambda t, f: (f / "interactions.csv.gz").write_bytes(gzip.compress(as_text(t))),
    "parquet": lambda t, f: parquet.write_table(t, f / "interactions.parquet"),
    "large": cast(pa.large_string()),
    "view": cast(pa.string_view()),
    "categories": categories,
    "delta": lambda t, f: delta(t, f / "interactions.parquet"),
    "parts": lambda t, f: parts(t, f / "interactions.parquet"),
    "parts as the folder": lambda t, f: (f.rmdir(), parts(t, f)),
    "hive": lambda t, f: hive(t, f / "interactions.parquet"),
    "hive as the folder": hive,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_the_same_dataset(form, tmp_path):
    table = rows()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "interactions.csv").write_bytes(as_text(table))
    (tmp_path / "other").mkdir()
    FORMS[form](table, tmp_path / "other")
    expected, found = load(tmp_path / "plain"), load(tmp_path / "other")
    assert found.fingerprint == expected.fingerprint
    assert found.item_ids.tolist() == expected.item_ids.tolist()


def test_delta_encoded_text_is_what_pyarrow_refuses_as_dictionary(tmp_path):
    delta(rows(), tmp_path / "interactions.parquet")
    with pytest.raises(OSError, match="Not yet implemented"):
        parquet.ParquetFile(tmp_path / "interactions.parquet", read_dictionary=["user"]).read()


def test_long_delta_encoded_text_is_refused_before_all_of_it_is_decoded(tmp_path):
    table = pa.table({"user": ["u"] * 5000, "item": ["x" * 500] * 5000})
    delta(table, tmp_path / "interactions.parquet")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "row 1 has the item")


def test_damaged_folders_of_parts_are_refused(tmp_path):
    place = tmp_path / "interactions.parquet"
    place.mkdir()
    for make, part in (
        (lambda: None, "folder without tables"),
        (lambda: (place / "part-0.parquet").write_bytes(b"PAR1"), "part-0.parquet: is not a readable table"),
        (lambda: (place / "other").mkdir(), "not column=value"),
        (lambda: os.mkfifo(place / "part-1.parquet"), "not a regular file"),
    ):
        make()
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        one_line(caught, part)
        if (place / "other").exists():
            (place / "other").rmdir()
            (place / "part-0.parquet").unlink()


def test_parts_with_other_columns_are_refused(tmp_path):
    place = tmp_path / "interactions.parquet"
    place.mkdir()
    parquet.write_table(pa.table({"user": [1], "item": [1], "split": ["train"]}), place / "part-0.parquet")
    parquet.write_table(pa.table({"user": [1], "item": [2]}), place / "part-1.parquet")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "some parts have no column split")


@pytest.mark.parametrize("name", ["users.txt", "users.txt.gz", "users.csv", "users.csv.gz", "users.parquet"])
def test_list_of_ids_is_read_from_text_and_tables(name, tmp_path):
    path, ids = tmp_path / name, ["u 1", "ü2", "3"]
    if name.endswith(".parquet"):
        parquet.write_table(pa.table({"user": ids}), path)
    else:
        text = ("\ufeff" + ("user\r\n" if ".csv" in name else "") + "\r\n".join(ids) + "\r\n").encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert read_id_list(path, "user") == ids


# ratings, times, splits


def rated(tmp_path, extra="", name="interactions.csv"):
    lines = [f"{u},{i},{1 + (u * i) % 5},{1000 * i + u}" for u in range(20) for i in range(10)]
    (tmp_path / name).write_text("user,item,rating,timestamp\n" + "\n".join(lines) + extra)


def test_columns_that_are_not_read_are_named_once(tmp_path):
    rated(tmp_path)
    notes = [note for note in load(tmp_path).notes if "not read" in note]
    assert notes == [
        "interactions.csv: columns rating, timestamp are not read; every row counts as an interaction; "
        "--min-rating 4 keeps only ratings of 4 or higher, --weight-column rating weights the rows by them; --split "
        "time splits by timestamp"
    ]
    notes = [note for note in load(tmp_path, min_rating=2, split="last").notes if "not read" in note]
    assert notes == []


def test_min_rating_keeps_rows_from_that_rating_on(tmp_path):
    rated(tmp_path)
    data = load(tmp_path, min_rating=4)
    expected = {(u, i) for u in range(20) for i in range(10) if 1 + (u * i) % 5 >= 4}
    users, items = data.original_users(np.arange(data.n_users)), data.original_items(np.arange(data.n_items))
    found = {(int(users[u]), int(items[i])) for split in SPLITS for u, i in pairs(data, split)}
    assert found == expected
    left = f"interactions.csv: {200 - len(expected)} of 200 rows have a rating below 4, ignored"
    assert left in data.notes


@pytest.mark.parametrize(
    ("cell", "part"),
    [("nan", "row 201 has the rating nan"), ("good", "row 201 has the rating 'good'"), ("", "row 201 has the rating")],
)
def test_rating_that_is_no_number_is_refused_with_its_row(cell, part, tmp_path):
    rated(tmp_path, f"\n1,1,{cell},5")
    with pytest.raises(InputError) as caught:
        load(tmp_path, min_rating=3)
    one_line(caught, "interactions.csv", part)


@pytest.mark.parametrize("options", [{"min_rating": 3}, {"split": "time"}, {"split": "last"}, {"split_column": "fold"}])
def test_option_whose_column_is_missing_is_refused(options, tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\n1,2\n1,3\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path, **options)
    one_line(caught, "interactions.csv: has no column")


def test_text_that_is_no_time_is_refused_with_its_row(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\n1,2,5\n1,3,yesterday\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path, split="time")
    one_line(caught, "row 2 has the timestamp 'yesterday'; it must be a number, or a time such as 2026-11-30T12:00:00")


TIMES = {
    "seconds": lambda t: t,
    "decimals": lambda t: t + 0.5,
    "dates": lambda t: (np.datetime64("2015-01-01") + t.astype("m8[D]")).astype(str),
    "moments": lambda t: np.char.add((np.datetime64("2015-01-01T10:00:00") + t.astype("m8[s]")).astype(str), "Z"),
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_times_are_read_however_they_are_written(kind, table, tmp_path):
    users, items = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    times = TIMES[kind](np.random.default_rng(0).permutation(200))
    arrow = pa.table({"user": users, "item": items, "timestamp": times.tolist()})
    if table == "csv":
        csv.write_csv(arrow, tmp_path / "interactions.csv")
    else:
        parquet.write_table(arrow, tmp_path / "interactions.parquet")
    data = load(tmp_path, split="time")
    order = np.argsort(times, kind="stable")
    held = {(int(users[at]), int(items[at])) for at in order[-20:]}
    assert set(pairs(data, "test")) == held and data.val.nnz == 20 and data.train.nnz == 160


TRIPLES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=150)
@given(triples=TRIPLES, count=st.integers(1, 3), seed=st.integers(0, 3))
def test_latest_split_holds_out_the_latest_of_each_user(triples, count, seed):
    users, items, times = (np.array(side) for side in zip(*triples, strict=True))
    splits = split_latest(users, items, times, count, seed)
    first = {}
    for user, item, time in triples:
        first[user, item] = min(time, first.get((user, item), time))
    found = {split: list(zip(*(side.tolist() for side in splits[split]), strict=True)) for split in SPLITS}
    assert sorted(pair for own in found.values() for pair in own) == sorted(first)
    for user in set(users.tolist()):
        own = {split: [first[pair] for pair in found[split] if pair[0] == user] for split in SPLITS}
        enough = len([pair for pair in first if pair[0] == user]) > 2 * count
        assert (len(own["val"]), len(own["test"])) == ((count, count) if enough else (0, 0))
        assert max(own["train"]) <= min([*own["val"], 10]) and max([*own["val"], -1]) <= min([*own["test"], 10])
    shuffled = np.random.default_rng(seed).permutation(len(users))
    again = split_latest(users[shuffled], items[shuffled], times[shuffled], count, seed)
    for split in SPLITS:
        np.testing.assert_array_equal(np.stack(splits[split]), np.stack(again[split]))


@settings(deadline=None, max_examples=150)
@given(triples=TRIPLES, share=st.sampled_from([0.1, 0.2, 0.4]))
def test_split_by_time_keeps_equal_times_together(triples, share):
    users, items, times = (np.array(side) for side in zip(*triples, strict=True))
    splits = split_by_time(users, items, times, share)
    first = {}
    for user, item, time in triples:
        first[user, item] = min(time, first.get((user, item), time))
    found = {
        split: {first[pair] for pair in zip(*(side.tolist() for side in splits[split]), strict=True)}
        for split in SPLITS
    }
    assert sum(len(splits[split][0]) for split in SPLITS) == len(first)
    assert max(found["train"] | {-1}) < min(found["val"] | found["test"] | {10})
    assert max(found["val"] | {-1}) < min(found["test"] | {10})
    ordered = sorted(first.values())
    for held_out, part in ((["test"], 1), (["test", "val"], 2)):
        start = ordered[min(len(ordered) - math.floor(part * share * len(ordered) + 1e-9), len(ordered) - 1)]
        assert sum(len(splits[split][0]) for split in held_out) == sum(time >= start for time in ordered)


def test_one_folder_holds_several_splits(tmp_path):
    rows = "1,2,train,test\n1,3,test,train\n2,2,train,train\n"
    (tmp_path / "interactions.csv").write_text("user,item,split,fold\n" + rows)
    (tmp_path / "cold.csv").write_text("user,item,split\n1,2,valid\n1,3,train\n2,2,train\n")
    usual, fold = load(tmp_path), load(tmp_path, split_column="fold")
    assert (pairs(usual, "test"), pairs(fold, "test")) == ([(0, 1)], [(0, 0)])
    assert pairs(load(tmp_path, interactions="cold.csv"), "val") == [(0, 0)]
    notes = load(tmp_path, split="random").notes
    assert "interactions.csv: columns split, fold are not read" in notes and any("split 8:1:1" in one for one in notes)
    with pytest.raises(InputError) as caught:
        load(tmp_path, interactions="none.csv")
    one_line(caught, tmp_path / "none.csv", "--interactions")


def test_layouts_without_a_table_refuse_its_options(tmp_path):
    (tmp_path / "train.json").write_text('{"0": [1, 2]}')
    with pytest.raises(InputError) as caught:
        load(tmp_path, layout="hkuds", min_rating=3.0)
    one_line(caught, "hkuds", "min_rating = 3.0")


def test_summary_counts_what_has_no_history(tmp_path):
    lines = ["1,1,train", "1,2,train", "2,1,train", "1,3,val", "3,1,test", "3,3,test", "2,3,test"]
    (tmp_path / "interactions.csv").write_text("user,item,split\n" + "\n".join(lines))
    found = summarise(load(tmp_path))
    assert found["without_history"] == {"users": 1, "items": 1}
    assert found["held_out"]["test"] == {
        "pairs": 3,
        "users": 2,
        "new_users": 1,
        "pairs_of_new_users": 2,
        "cold_items": 1,
        "pairs_of_cold_items": 2,
    }
    assert found["held_out"]["val"]["cold_items"] == 1 and found["held_out"]["val"]["new_users"] == 0


PUBLISHED = {  # train, val, test, test users, of them new, cold test items, cold test pairs
    ("movielens-small", ""): (49372, 6172, 6172, 80, 61, 877, 1317),
    ("movielens-small", "interactions_random.parquet"): (49894, 5911, 5911, 608, 0, 301, 310),
    ("movielens-small", "interactions_cold.parquet"): (49872, 5873, 5971, 553, 0, 736, 5971),
    ("goodbooks-toread", ""): (80936, 10117, 10116, 1530, 812, 315, 515),
    ("goodbooks-toread", "interactions_random.parquet"): (80685, 10242, 10242, 7709, 0, 128, 141),
    ("goodbooks-toread", "interactions_cold.parquet"): (82054, 9766, 9349, 4874, 184, 697, 9349),
}


@pytest.mark.parametrize(("name", "table"), PUBLISHED)
def test_published_folders_hold_their_splits(name, table):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} not there (MMSSL_FAST_DATA)")
    found = summarise(load(SHARED / name, interactions=table))
    test = found["held_out"]["test"]
    assert (
        *found["interactions"].values(),
        test["users"],
        test["new_users"],
        test["cold_items"],
        test["pairs_of_cold_items"],
    ) == PUBLISHED[name, table]


def test_table_names_its_unread_columns(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item,a,b\n1,2,x,y\n")
    table = read_table(tmp_path / "interactions.csv", ["user", "item"])
    assert table.unread == ["a", "b"] and table.rows == 1


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_names_of_columns_may_contain_the_separator(tmp_path, separator):
    names = ["user", f"price{separator} EUR", "item", 'the "best"', ",".join("abcdefgh")]
    table = pa.table({name: [f"{name} 1", f"{name} 2"] for name in names})
    path = tmp_path / "table.csv"
    path.write_bytes(as_text(table, separator))
    assert column_names(path) == names
    found = read_table(path, ["user"], [names[1]])
    assert found[names[1]].texts == [f"{names[1]} 1", f"{names[1]} 2"] and found.unread == names[2:]
    assert read_columns(path, names) == table.to_pydict()


def test_quotation_marks_in_a_table_with_tabs_belong_to_the_text(tmp_path):
    path = tmp_path / "films.tsv"
    path.write_text('item\ttitle\tthe "best"\n1\t"Heat" (1995)\tyes\n2\t"Weird, Al\tno\n')
    assert column_names(path) == ["item", "title", 'the "best"']
    assert read_columns(path, ["item", "title"]) == {"item": ["1", "2"], "title": ['"Heat" (1995)', '"Weird, Al']}
