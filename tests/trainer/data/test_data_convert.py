"""data convert: each neighbour's layout becomes a plain folder with the same pairs, ids, features and splits."""

import gzip
import pickle

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from data_folders import WRITERS, one_line, pairs, small_dataset
from mmssl_trainer import convert_data as convert
from mmssl_trainer import item_texts, prepare_data
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import SPLITS, InputError, load
from mmssl_trainer.data.pickles import read_integer_lists
from pyarrow import parquet


@pytest.fixture(scope="module")
def small():
    return small_dataset()


def text(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def lists(data, split, first=0):
    """{user: [items]} of a split."""
    found = {}
    for user, item in pairs(data, split):
        found.setdefault(user, []).append(item + first)
    return found


def objects(path, rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    np.save(path, array, allow_pickle=True)


def recbole(data, folder):
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        rows = [f"user{u}\titem{i}\t4.5\t1300000000" for u, i in pairs(data, split)]
        text(folder / f"shop.{name}.inter", ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows])
    rows = [f"item{i}\tA title\t{' '.join(map(str, data.features['text'][i]))}" for i in range(data.n_items)]
    text(folder / "shop.item", ["item_id:token\ttitle:token_seq\ttext_feat:float_seq", *rows])


def lightgcn(data, folder):
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        text(folder / f"{name}.txt", [f"{u} {' '.join(map(str, own))}" for u, own in lists(data, split).items()])
    text(folder / "user_list.txt", ["org_id remap_id", *(f"user{u} {u}" for u in range(data.n_users))])
    text(folder / "item_list.txt", ["org_id remap_id", *(f"item{i} {i}" for i in range(data.n_items))])
    np.save(folder / "text_feat.npy", data.features["text"])


def chaorec(data, folder):
    first = data.n_users
    np.save(folder / "train.npy", np.array(pairs(data, "train"), np.int32) + np.array([0, first], np.int32))
    for split in ("val", "test"):
        objects(folder / f"{split}.npy", [[u, *own] for u, own in lists(data, split, first).items()])
    np.save(folder / "text_feat.npy", data.features["text"])


def sslrec(data, folder):
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        (folder / f"{name}_mat.pkl").write_bytes(pickle.dumps(sp.coo_matrix(getattr(data, split))))
    np.save(folder / "text_feat.npy", data.features["text"])


def hugging_face(data, folder):
    (folder / "data").mkdir()
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        found = lists(data, split)
        table = pa.table(
            {"user_id": [f"user{u}" for u in found], "items": [[f"item{i}" for i in own] for own in found.values()]}
        )
        parquet.write_table(table, folder / "data" / f"{name}-00000-of-00001.parquet")


FORMATS = {
    "recbole": (recbole, "user{}", "item{}"),
    "lightgcn": (lightgcn, "user{}", "item{}"),
    "chaorec": (chaorec, "{}", None),
    "sslrec": (sslrec, "{}", "{}"),
    "hugging_face": (hugging_face, "user{}", "item{}"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("table", ["parquet", "csv"])
def test_format_keeps_pairs_ids_features_and_splits(name, table, small, tmp_path):
    write, user, item = FORMATS[name]
    (tmp_path / "source").mkdir()
    write(small, tmp_path / "source")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "source")
    one_line(caught, "mmssl-fast data convert")
    data = convert(tmp_path / "source", tmp_path / "new", table=table)
    again = load(tmp_path / "new")
    assert again.fingerprint == data.fingerprint and (tmp_path / "new" / f"interactions.{table}").exists()
    users, items = (np.arange(count) for count in (again.n_users, again.n_items))
    users, items = again.original_users(users).tolist(), again.original_items(items).tolist()
    for split in SPLITS:
        found = {(str(users[u]), str(items[i])) for u, i in pairs(again, split)}
        expected = {(user.format(u), (item or str(40 + i)).format(i)) for u, i in pairs(small, split)}
        assert found == expected
    if name != "hugging_face":
        rows = {str(items[at]): again.features["text"][at].tolist() for at in range(again.n_items)}
        expected = {(item or str(40 + i)).format(i): row for i, row in enumerate(small.features["text"].tolist())}
        assert rows.keys() == expected.keys()
        for key, row in expected.items():
            assert rows[key] == pytest.approx(row)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


ROWS = [(f"A{u:013d}", f"B{(7 * u + 3 * n) % 50:09d}", 1 + n, 10**9 + 50 * n + u) for u in range(30) for n in range(5)]
RATINGS = {
    "ratings.csv": ["userId,movieId,rating,timestamp", *(f"{u},{i},{r}.0,{t}" for u, i, r, t in ROWS)],
    "ratings_Beauty.csv": [f"{u},{i},{r}.0,{t}" for u, i, r, t in ROWS],
    "All_Beauty.csv": [f"{i},{u},{r}.0,{t}" for u, i, r, t in ROWS],
    "reviews.csv.gz": ["user_id,parent_asin,rating,timestamp", *(f"{u},{i},{r},{t}" for u, i, r, t in ROWS)],
    "u.data": [f"{u}\t{i}\t{r}\t{t}" for u, i, r, t in ROWS],
    "ratings.dat": [f"{u}::{i}::{r}::{t}" for u, i, r, t in ROWS],
    "bought.tsv": ["rating\ttimestamp\titem_id\tuser_id", *(f"{r}\t{t}\t{i}\t{u}" for u, i, r, t in ROWS)],
}


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("name", RATINGS)
def test_ratings_keep_rating_and_time_with_or_without_a_header(name, whole, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    content = "".join(f"{line}\n" for line in RATINGS[name]).encode()
    (source / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    text(source / "movies.csv", ["movieId,title", "1,A film"])
    convert(source if whole else source / name, tmp_path / "new")
    table = parquet.read_table(tmp_path / "new" / "interactions.parquet").to_pylist()
    assert [(row["user"], row["item"], int(row["rating"]), row["timestamp"]) for row in table] == ROWS
    data = load(tmp_path / "new", min_rating=4, split="last")
    assert data.train.nnz + data.val.nnz + data.test.nnz == 60


def folder_of(folder, **files):
    folder.mkdir()
    for name, lines in files.items():
        text(folder / name.replace("__", "."), lines)
    return folder


def test_table_of_films_is_kept_for_titles_and_texts(tmp_path, capsys):
    """All films, also those that nobody rated, in the order of the table; then rated ones that it does not have."""
    source = folder_of(
        tmp_path / "source",
        ratings__csv=["userId,movieId,rating", *(f"{u},{i},4" for u in range(9) for i in (10, 2, 7, 99))],
        movies__csv=[
            "movieId,title,genres,none",
            '7,"Big, ""Fat"" Heat",Action|Drama,',
            "2,Léon,Drama,",
            "3,Unrated,,",
        ],
        links__csv=["movieId,imdbId", "7,0012"],
        tags__csv=["userId,movieId,tag", "1,7,fun"],
    )
    data = convert(source, tmp_path / "new")
    assert data.item_ids.tolist() == [7, 2, 3, 10, 99]
    assert (
        "movies.csv: 3 items with title, genres; 1 without interactions; 2 items of the interactions are not in it"
        in data.notes
    )
    assert "not converted: links.csv, tags.csv" in data.notes
    table = parquet.read_table(tmp_path / "new" / "items.parquet").to_pydict()
    assert table["title"] == ['Big, "Fat" Heat', "Léon", "Unrated", None, None]
    assert table["genres"] == ["Action|Drama", "Drama", None, None, None] and table.keys() == {
        "item",
        "title",
        "genres",
    }
    assert item_texts(tmp_path / "new" / "items.parquet", ["title"])["title"]["2"] == "Léon"
    again = convert(source, tmp_path / "csv", table="csv")
    assert again.fingerprint == data.fingerprint
    assert item_texts(tmp_path / "csv" / "items.csv", ["title"])["title"]["7"] == 'Big, "Fat" Heat'


def test_item_file_of_recbole_keeps_its_texts(tmp_path):
    source = folder_of(
        tmp_path / "source",
        ml__inter=["user_id:token\titem_id:token", *(f"{u}\t{i}" for u in range(9) for i in range(4))],
        ml__item=[
            "item_id:token\tmovie_title:token_seq\temb:float_seq",
            *(f'{i}\t"Film" {i}\t1 {i}' for i in range(4)),
        ],
    )
    data = convert(source, tmp_path / "new")
    texts = item_texts(tmp_path / "new" / "items.parquet", ["movie_title"])
    assert texts == {"movie_title": {str(i): f'"Film" {i}' for i in range(4)}} and list(data.modalities) == ["emb"]


@pytest.mark.parametrize(
    ("name", "lines", "note"),
    [
        ("movies__csv", ["movieId,title", "x,A"], "movies.csv is not converted: none of its items has an interaction"),
        (
            "movies__csv",
            ["film,title", "1,A"],
            "movies.csv is not converted: has no column of item ids; for titles, write",
        ),
        ("movies__csv", ["movieId,title", "1,A,B"], "movies.csv is not converted: is not a readable table"),
        ("movies__csv", ["movieId,title", ",A"], "movies.csv is not converted: row 1 has no movieId"),
        (
            "movies__csv",
            ["movieId,title", "1,A", "1,B"],
            "movies.csv: 1 items with title; 1 rows of an item that had one left",
        ),
        ("movies__dat", ["1::A::B"], "movies.dat is not converted: has no column of item ids"),
    ],
)
def test_table_of_items_that_cannot_be_used_is_named(name, lines, note, tmp_path):
    ratings = ["userId,movieId,rating", *(f"{u},{i},4" for u in range(9) for i in range(4))]
    data = convert(folder_of(tmp_path / "source", ratings__csv=ratings, **{name: lines}), tmp_path / "new")
    assert any(each.startswith(note) for each in data.notes), data.notes


def test_table_of_items_beside_rows_of_features_is_not_taken(tmp_path):
    """The rows are those of the items in another order."""
    ratings = ["userId,movieId,rating", *(f"{u},{i},4" for u in range(9) for i in range(4))]
    source = folder_of(tmp_path / "source", ratings__csv=ratings, movies__csv=["movieId,title", "1,A"])
    np.save(source / "image_feat.npy", np.ones((4, 2), np.float32))
    data = convert(source, tmp_path / "new")
    assert not (tmp_path / "new" / "items.parquet").exists()
    assert any("movies.csv is not converted: .npy features have an order of their own" in note for note in data.notes)


def test_lists_of_items_are_unfolded_with_their_ratings(tmp_path):
    table = pa.table({"user": ["a", "b", "c"], "item": [[1, 2], [], [3]], "rating": [[5, 4], [], [1]]})
    table = table.append_column("age", pa.array([7, 8, 9]))
    parquet.write_table(table, tmp_path / "interactions.parquet")
    with pytest.raises(InputError, match="mmssl-fast data convert expands lists"):
        load(tmp_path)
    data = convert(tmp_path, tmp_path / "new")
    rows = parquet.read_table(tmp_path / "new" / "interactions.parquet").to_pylist()
    assert [tuple(row.values()) for row in rows] == [("a", 1, 5), ("a", 2, 4), ("c", 3, 1)]
    assert "columns not converted: age" in data.notes
    parquet.write_table(pa.table({"user": ["a"], "item": [[1, 2]], "rating": [[5]]}), tmp_path / "interactions.parquet")
    with pytest.raises(InputError) as caught:
        convert(tmp_path, tmp_path / "other")
    one_line(caught, "lists of rating and item have different lengths")


@pytest.mark.parametrize("layout", ["diffmm", "hkuds", "mmrec"])
def test_layouts_that_train_reads_are_converted_too(layout, small, tmp_path):
    (tmp_path / "source").mkdir()
    WRITERS[layout](small, tmp_path / "source")
    assert convert(tmp_path / "source", tmp_path / "new").fingerprint == small.fingerprint


def test_plain_folder_needs_no_conversion(small, tmp_path):
    WRITERS["plain_csv"](small, tmp_path / "source")
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "source", tmp_path / "new")
    one_line(caught, "already in the plain layout")


def test_columns_of_other_names_are_given(tmp_path):
    text(tmp_path / "bought.csv", ["buyer,thing,when", *(f"{u},{i},1" for u in range(5) for i in range(5))])
    for read in (lambda: load(tmp_path), lambda: convert(tmp_path, tmp_path / "new")):
        with pytest.raises(InputError) as caught:
            read()
        one_line(caught, "contains bought.csv", "closest is plain", "bought.csv NEW --user COLUMN --item COLUMN")
    data = convert(tmp_path / "bought.csv", tmp_path / "new", "buyer", "thing")
    assert (data.n_users, data.n_items) == (5, 5)
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "bought.csv", tmp_path / "again", "buyer", "thin")
    one_line(caught, "bought.csv", "buyer, thing, when", "--item")


def test_ids_that_were_written_as_floats_are_kept_with_a_note(tmp_path):
    """As pandas writes integers in a column of which a value was missing."""
    rows = [(user, item) for user in range(5) for item in range(5)]
    text(tmp_path / "bought.csv", ["user_id,item_id", *(f"{user}.0,{item}" for user, item in rows)])
    converted = convert(tmp_path / "bought.csv", tmp_path / "new")
    parquet.write_table(pa.table({"user": [f"{u}.0" for u, _ in rows], "item": [i for _, i in rows]}), tmp_path / "a")
    (tmp_path / "parts").mkdir()
    (tmp_path / "a").rename(tmp_path / "parts" / "interactions.parquet")
    prepared = prepare_data(tmp_path / "parts", tmp_path / "prepared")
    for data in (converted, load(tmp_path / "new"), prepared):
        about = [note for note in data.notes if "astype" in note]
        assert len(about) == 1 and "the user ids are kept as texts such as '0.0'" in about[0]
        assert data.user_ids.tolist()[:2] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (["train.jsn", "valid.jsn"], ["contains train.jsn, valid.jsn", "closest is hkuds"]),
        (["tstmat.pickle"], ["contains tstmat.pickle", "closest is diffmm"]),
        ([], ["is empty", "interactions.csv"]),
    ],
)
def test_unknown_folder_is_answered_by_what_it_holds(files, parts, tmp_path):
    for name in files:
        (tmp_path / name).write_text("x")
    for read in (load, lambda folder: convert(folder, folder / "new")):
        with pytest.raises(InputError) as caught:
            read(tmp_path)
        one_line(caught, tmp_path, *parts)


def test_split_column_is_kept(tmp_path):
    text(tmp_path / "all.csv", ["user_id,item_id,x_label", "1,1,0", "1,2,0", "1,3,2", "1,4,1"])
    data = convert(tmp_path, tmp_path / "new")
    assert [pairs(data, split) for split in SPLITS] == [[(0, 0), (0, 1)], [(0, 3)], [(0, 2)]]


def test_two_tables_need_a_choice(tmp_path):
    for name in ("a.csv", "b.csv"):
        text(tmp_path / name, ["user_id,item_id", "1,2"])
    with pytest.raises(InputError) as caught:
        convert(tmp_path, tmp_path / "new", "user_id", "item_id")
    one_line(caught, "has 2 tables", "a.csv, b.csv", "give the file itself")


DAMAGES = {
    "lightgcn": ("train.txt", b"0 1 2\n1 x\n", "train.txt: line 2"),
    "chaorec": ("val.npy", b"\x93NUMPY", "val.npy"),
    "sslrec": ("valid_mat.pkl", pickle.dumps(print), "builtins.print"),
    "recbole": ("shop.valid.inter", b"user_id:token\titem_id:token\nu\t\n", "row 1 has no item_id:token"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_leaves_nothing_behind(name, small, tmp_path, monkeypatch):
    file, content, part = DAMAGES[name]
    (tmp_path / "source").mkdir()
    FORMATS[name][0](small, tmp_path / "source")
    sound = (tmp_path / "source" / file).read_bytes()
    (tmp_path / "source" / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "source", tmp_path / "new")
    one_line(caught, part)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    (tmp_path / "source" / file).write_bytes(sound)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmssl_trainer.data.convert.write_table", full)
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "source", tmp_path / "new")
    one_line(caught, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_features_that_do_not_fit_leave_nothing_behind(small, tmp_path):
    (tmp_path / "source").mkdir()
    lightgcn(small, tmp_path / "source")
    np.save(tmp_path / "source" / "text_feat.npy", small.features["text"][:-1])
    with pytest.raises(InputError) as caught:
        convert(tmp_path / "source", tmp_path / "new")
    one_line(caught, tmp_path / "new" / "text_feat.npy", "29 rows for 30 items")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("entry", [_Evil(), "text", [1, "x"], [1.5], None, {1: 2}])
def test_lists_in_npy_files_are_read_without_unpickling(entry, tmp_path, capsys):
    objects(tmp_path / "val.npy", [[1, 2], entry])
    with pytest.raises(InputError) as caught:
        read_integer_lists(tmp_path / "val.npy")
    one_line(caught, "val.npy")
    assert capsys.readouterr().out == ""


def test_lists_of_integers_of_every_kind_are_read(tmp_path):
    objects(tmp_path / "val.npy", [[1, 2], (3, np.int32(4)), np.array([5, 6], np.int16), []])
    assert read_integer_lists(tmp_path / "val.npy") == [[1, 2], [3, 4], [5, 6], []]


def test_command_says_what_it_wrote_and_what_is_wrong(small, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    chaorec(small, tmp_path / "source")
    new = tmp_path / "new"
    assert main(["data", "convert", str(tmp_path / "source"), str(new)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "40 users, 30 items" in printed and "features: text" in printed and "feature row 0 is item 40" in printed
    assert main(["data", "convert", str(tmp_path / "source"), str(new)]) == 2
    assert "is not empty" in capsys.readouterr().err
