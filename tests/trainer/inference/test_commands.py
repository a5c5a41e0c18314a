"""`recommend` with files of new users, new items and candidates, and `similar`, from the run alone."""

import csv
import shutil

import numpy as np
import pyarrow as pa
import pytest
from mmssl_trainer import InputError, recommend, similar
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.inference.files import read_new_items
from mmssl_trainer.runs import saved_model
from pyarrow import parquet

SMALL = ["--threads", "1", "--epochs", "1", "--batch", "300", "--set", "model.dim=8", "--set", "model.heads=2"]


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Runs whose data is gone."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_plain(data, folder / "data")
    for system in ("mmssl", "mf", "lightgcn"):
        arguments = ["--data", str(path), "--system", system, "--out", str(folder / system), *SMALL]
        assert main(["train", *arguments]) == 0
    shutil.rmtree(path)
    return folder


def written(path, text):
    path.write_text(text)
    return str(path)


def lists(path):
    """{user: items} of a CSV file of recommendations."""
    found = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["user"], []).append(row["item"])
    return found


def asked(run, out, capsys, *arguments):
    """({user: items}, what was said)."""
    capsys.readouterr()
    assert main(["recommend", str(run), "--out", str(out), *arguments]) == 0, capsys.readouterr().err
    return lists(out), capsys.readouterr().err


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def feature_file(path, ids, values):
    parquet.write_table(pa.table({"item": ids, "features": list(values.astype(np.float32))}), path)
    return str(path)


def test_histories_and_purchases_since_training(runs, tmp_path, capsys):
    history = written(tmp_path / "history.csv", "user,item\nann,3\nbob,5\nann,8\n")
    since = written(tmp_path / "since.csv", "user,item\nann,12\nann,999\nsomeone,1\n")
    found, said = asked(runs / "mmssl", tmp_path / "out.csv", capsys, "--history", history, "--exclude-from", since)
    model = saved_model.load(runs / "mmssl")
    expected = recommend(model, histories={"ann": [3, 8], "bob": [5]}, excluded=[("ann", 12)])
    assert found["ann"] == [str(item) for item in expected.item[:20]] and "12" not in found["ann"]
    assert list(found) == ["ann", "bob"] and "1 pairs of --exclude-from" in said
    some, _ = asked(runs / "mmssl", tmp_path / "out.csv", capsys, "--history", history, "--users", "bob")
    assert list(some) == ["bob"]


def test_unknown_items_of_a_history(runs, tmp_path, capsys):
    history = written(tmp_path / "history.csv", "user,item\nann,3\nann,x7\n")
    said = refused(capsys, "recommend", runs / "mmssl", "--history", history)
    assert f"{history}: row 2 has the item 'x7', which the model does not know" in said and "--skip-unknown" in said
    found, _ = asked(runs / "mmssl", tmp_path / "out.csv", capsys, "--history", history, "--skip-unknown")
    assert len(found["ann"]) == 20


def test_new_items_by_file_name_modality_and_folder(runs, data, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    ids = ["n1", "n2", "5"]  # 5 is an item of the model
    image, text = data.features["image"][:3] * 9, data.features["text"][:3] * 9
    by_name = feature_file(folder / "image_feat.parquet", ids, image)
    feature_file(folder / "text_feat.parquet", ids[::-1], text[::-1])
    shutil.copy(folder / "text_feat.parquet", tmp_path / "other.parquet")
    asks = (["--new-items", str(folder)], ["--new-items", by_name, "--new-items", f"text={tmp_path / 'other.parquet'}"])
    for arguments in asks:
        found, said = asked(runs / "mmssl", tmp_path / "out.csv", capsys, "--users", "1", "--k", "70", *arguments)
        assert "1 of 3 new items are items of the model" in said
        model = saved_model.load(runs / "mmssl")
        expected = recommend(model, [1], 70, new_items=(["n1", "n2"], {"image": image[:2], "text": text[:2]}))
        assert found["1"] == [str(item) for item in expected.item] and {"n1", "n2"} <= set(found["1"])
    alone, _ = asked(runs / "mmssl", tmp_path / "o.csv", capsys, "--users", "1", *asks[0], "--candidates", by_name)
    assert alone["1"] == [item for item in found["1"] if item in ids]
    near, _ = asked(runs / "mmssl", tmp_path / "o.csv", capsys, "--users", "1", "--k", "70", *asks[0], "--nearest", "3")
    assert near["1"] != found["1"]


def test_wrong_new_items_are_named(runs, data, tmp_path, capsys):
    image = feature_file(tmp_path / "image_feat.parquet", ["n1", "n2"], data.features["image"][:2])
    text = feature_file(tmp_path / "text_feat.parquet", ["n1", "n3"], data.features["text"][:2])
    narrow = feature_file(tmp_path / "narrow.parquet", ["n1", "n2"], data.features["text"][:2, :4])
    np.save(tmp_path / "text.npy", data.features["text"][:2])
    run = runs / "mmssl"
    for arguments, fragment in (
        ([image], "the features 'text' of the new items are missing"),
        ([image, text], "its items differ from those of the first feature file, such as 'n"),
        ([image, f"text={narrow}"], "narrow.parquet: has 4 columns, but the model was trained on 6 columns of 'text'"),
        ([image, f"text={tmp_path / 'text.npy'}"], "text.npy: has no ids"),
        ([image, str(tmp_path / "narrow.parquet")], "narrow.parquet: its modality is not known"),
        ([image, f"image={image}"], "already has the modality 'image'"),
        ([image, f"text={tmp_path / 'none.parquet'}"], "none.parquet: no such file or folder; check the name"),
    ):
        options = [word for source in arguments for word in ("--new-items", source)]
        assert fragment in refused(capsys, "recommend", run, "--users", "1", *options)
    said = refused(capsys, "recommend", runs / "lightgcn", "--users", "1", "--new-items", image)
    assert "LightGCN cannot embed an item by its features: the system does not use features" in said


def test_new_items_none_of_which_has_a_picture(tmp_path):
    """The width of a Parquet file in which every row is null is that of the model."""
    for name, rows in (("image", [None, None]), ("text", [[1.0] * 6, [2.0] * 6])):
        table = pa.table({"item": ["x", "y"], "vector": pa.array(rows, pa.list_(pa.float32()))})
        parquet.write_table(table, tmp_path / f"{name}_feat.parquet")
    ids, features = read_new_items([str(tmp_path)], {"image": 8, "text": 6})
    assert ids == ["x", "y"] and features["image"].shape == (2, 8) and np.isnan(features["image"]).all()
    with pytest.raises(InputError, match=r"text_feat.parquet: has 6 columns, but the model was trained on 5 columns"):
        read_new_items([str(tmp_path)], {"image": 8, "text": 5})


@pytest.mark.parametrize(
    "option", ["--history", "--exclude-from", "--users-from", "--candidates", "--new-items", "--items"]
)
def test_a_missing_file_is_answered_with_advice_that_fits(runs, tmp_path, capsys, option):
    missing = f"text={tmp_path}/none.parquet" if option == "--new-items" else tmp_path / "none.csv"
    more = {"--items": ["--filter", "colour=blue"], "--new-items": ["--new-items", f"image={tmp_path}/no.npz"]}
    said = refused(capsys, "recommend", runs / "mmssl", "--users", "1", option, missing, *more.get(option, []))
    assert "no such file or folder; check the name" in said and "layout" not in said


def test_candidates_and_filters(runs, tmp_path, capsys):
    candidates = written(tmp_path / "stock.txt", "\n".join(map(str, [*range(0, 70, 2), 900])))
    rows = [f"{item},{'red|blue' if item % 3 == 0 else ''},{'S' if item < 40 else 'L'}" for item in range(70)]
    items = written(tmp_path / "items.csv", "item,colour,size\n" + "\n".join(rows) + "\n")
    out, run = tmp_path / "out.csv", runs / "mmssl"
    found, said = asked(run, out, capsys, "--users", "1", "--candidates", candidates)
    assert found["1"] and all(int(item) % 2 == 0 for item in found["1"])
    assert "1 of 36 candidates are not items of the model" in said
    filters = ["--items", items, "--filter", "colour=blue", "--filter", "size=S"]
    found, _ = asked(run, out, capsys, "--users", "1", *filters)
    assert found["1"] and all(int(item) % 3 == 0 and int(item) < 40 for item in found["1"])
    found, _ = asked(run, out, capsys, "--users", "1", "--candidates", candidates, *filters)
    assert found["1"] and all(int(item) % 6 == 0 and int(item) < 40 for item in found["1"])
    either, _ = asked(run, out, capsys, "--users", "1", "--k", "50", "--items", items, *["--filter", "size=S"] * 2)
    both, _ = asked(
        run, out, capsys, "--users", "1", "--k", "50", "--items", items, "--filter", "size=S", "--filter", "size=L"
    )
    assert max(map(int, either["1"])) < 40 <= max(map(int, both["1"]))


@pytest.mark.parametrize("separator, name", [(",", "items.csv"), (";", "items.csv"), ("\t", "items.tsv")])
def test_filters_read_tables_as_pandas_writes_them(runs, tmp_path, capsys, separator, name):
    """Years of which some are missing are floats."""
    rows = [f"{item}{separator}{'' if item % 5 == 0 else 1990.0 + item % 3}" for item in range(70)]
    items = written(tmp_path / name, f"item{separator}year\n" + "\n".join(rows) + "\n")
    for value in ("1991", "1991.0"):
        asking = ["--users", "1", "--items", items, "--filter", f"year={value}"]
        found, _ = asked(runs / "mmssl", tmp_path / "out.csv", capsys, *asking)
        assert found["1"] and all(int(item) % 3 == 1 and int(item) % 5 for item in found["1"])


def test_filters_read_floats_of_parquet(runs, tmp_path, capsys):
    years = [None if item % 5 == 0 else 1990.0 + item % 3 for item in range(70)]
    parquet.write_table(pa.table({"item": list(range(70)), "year": years}), tmp_path / "items.parquet")
    asking = ["--users", "1", "--items", str(tmp_path / "items.parquet"), "--filter", "year=1991"]
    found, _ = asked(runs / "mmssl", tmp_path / "out.csv", capsys, *asking)
    assert found["1"] and all(int(item) % 3 == 1 and int(item) % 5 for item in found["1"])


def test_tables_with_other_columns_are_refused(runs, tmp_path, capsys):
    said = refused(
        capsys,
        "recommend",
        runs / "mmssl",
        "--items",
        written(tmp_path / "a.csv", "item,x,x\n1,2,3\n"),
        "--filter",
        "x=2",
    )
    assert "a.csv: has 2 columns named x" in said
    films = written(tmp_path / "films.csv", "movie,title\n3,Heat\n")
    said = refused(capsys, "recommend", runs / "mmssl", "--users", "1", "--candidates", films)
    assert "films.csv: has no column item; its columns are movie, title; rename one of them" in said
    people = written(tmp_path / "people.csv", "person,name\n3,Ann\n")
    said = refused(capsys, "recommend", runs / "mmssl", "--users-from", people)
    assert "people.csv: has no column user; its columns are person, name; rename one of them" in said


@pytest.mark.parametrize(
    "arguments, fragment",
    [
        (["--filter", "colour=blue"], "--filter is about columns of the table --items"),
        (["--items", "ITEMS", "--filter", "colour"], "'colour': must be COLUMN=VALUE"),
        (["--items", "ITEMS", "--filter", "price=3"], "has no column price; its columns are item, colour"),
        (["--items", "ITEMS", "--filter", "colour=grey"], "no item has colour=grey"),
        (["--items", "NONE", "--filter", "colour=grey"], "NONE"),
        (["--nearest", "3"], "--nearest is for --new-items"),
        (["--spread", "0.5"], "--spread is for --new-items"),
        (["--skip-unknown"], "--skip-unknown is for --history"),
        (["--diversity", "2"], "diversity = 2.0: must be between 0 and 1"),
        (["--history", "ITEMS"], "user"),
    ],
)
def test_wrong_requests_are_one_line(runs, tmp_path, capsys, arguments, fragment):
    items = written(tmp_path / "items.csv", "item,colour\n1,blue\n")
    arguments = [items if word == "ITEMS" else word for word in arguments]
    said = refused(capsys, "recommend", runs / "mmssl", "--users", "1", *arguments)
    assert fragment in said


def test_a_system_that_trains_its_users_says_so(runs, tmp_path, capsys):
    history = written(tmp_path / "history.csv", "user,item\nann,3\n")
    said = refused(capsys, "recommend", runs / "mf", "--history", history)
    assert "MF-BPR cannot embed a user by a history: the embedding of a user is trained" in said


def test_diverse_lists(runs, tmp_path, capsys):
    plain, _ = asked(runs / "mmssl", tmp_path / "a.csv", capsys, "--k", "10")
    other, _ = asked(runs / "mmssl", tmp_path / "b.csv", capsys, "--k", "10", "--diversity", "0.5")
    assert plain.keys() == other.keys() and plain != other
    assert all(len(set(items)) == len(items) == len(plain[user]) for user, items in other.items())


def test_similar_items(runs, capsys):
    capsys.readouterr()
    assert main(["similar", str(runs / "mmssl"), "3", "8", "--k", "2"]) == 0
    out = capsys.readouterr().out
    assert "cosine" in out and out.count("│ 3 ") == 2 and out.count("│ 8 ") == 2
    assert main(["similar", str(runs / "mmssl"), "3", "--by", "features"]) == 0
    assert capsys.readouterr().out.count("│ 3 ") == 20  # as `recommend`
    assert "item 'nothing' is not in the data" in refused(capsys, "similar", runs / "mmssl", "nothing")
    assert "does not use features" in refused(capsys, "similar", runs / "lightgcn", "3", "--by", "features")


def test_titles_are_shown_beside_the_items(runs, data, tmp_path, capsys):
    """In a table on the terminal, in CSV and in Parquet; the title of an item that the table does not have is empty."""
    lines = ["item,title,year", *(f'{item},"Film, {item}",{1900 + item}' for item in range(60)), "0,twice,1"]
    shown = ["--items", written(tmp_path / "items.csv", "\n".join(lines)), "--show", "title", "--show", "year"]
    run = str(runs / "lightgcn")
    assert main(["recommend", run, "--k", "70", "--out", str(tmp_path / "o.csv"), *shown]) == 0
    with open(tmp_path / "o.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["user", "rank", "item", "score", "title", "year"]
    for row in found:
        item = int(row["item"])
        assert [row["title"], row["year"]] == ([f"Film, {item}", str(1900 + item)] if item < 60 else ["", ""])
    assert main(["recommend", run, "--k", "70", "--out", str(tmp_path / "o.parquet"), *shown]) == 0
    table = parquet.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["title"] or "" for row in table] == [row["title"] for row in found] and len(table) == len(found)
    assert any(row["title"] is None for row in table)
    capsys.readouterr()
    assert main(["recommend", run, "--users", "3", "--k", "2", *shown]) == 0
    said = capsys.readouterr().out
    assert all(row["title"] in said for row in found if row["user"] == "3" and int(row["rank"]) <= 2)
    assert main(["similar", run, "7", "--k", "3", *shown]) == 0
    said, near = capsys.readouterr().out, similar(saved_model.load(run), [7], 3).similar.tolist()
    assert all(f"Film, {item}" in said for item in near if item < 60)


def test_wrong_titles_are_refused(runs, tmp_path, capsys):
    table = written(tmp_path / "items.csv", "item,title\n1,One\n")
    other = written(tmp_path / "other.csv", "item,title\nx,One\n")
    for arguments, fragment in (
        (["--show", "title"], "--show is about columns of the table --items; give both"),
        (["--items", table, "--show", "name"], f"{table}: has no column name; its columns are item, title"),
        (["--items", table, "--show", "item"], "--show 'item': the output has a column of this name already"),
        (["--items", other, "--show", "title"], f"{other}: none of its items is an item of the model"),
        (["--items", table], "--items is for --"),
    ):
        for command in (["recommend", runs / "mf", "--users", "1"], ["similar", runs / "mf", "1"]):
            assert fragment in refused(capsys, *command, *arguments)
