"""Data as people have it: columns of other names, databases, and the k-core of users and items."""

import json
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from command_line import SMALL, fails
from data_folders import one_line, small_dataset, write_mmrec
from hypothesis import given, settings
from hypothesis import strategies as st
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load as load_config
from mmssl_trainer.data import InputError, load
from mmssl_trainer.data.convert import convert_data
from mmssl_trainer.data.core import k_core
from mmssl_trainer.data.prepare.run import prepare_data
from mmssl_trainer.data.write import write_table

OWN = {"user_column": "customer", "item_column": "film", "time_column": "bought", "rating_column": "stars"}
STANDARD = {"customer": "user", "film": "item", "bought": "timestamp", "stars": "rating"}


def columns(n=400):
    """Columns of a table, with repeated pairs, under names of their own."""
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 40, n), (30 * rng.random(n) ** 2).astype(int)
    return {
        "customer": np.array([f"u{user}" for user in users]),
        "film": items * 10,
        "bought": rng.integers(0, 10**6, n),
        "stars": rng.integers(1, 6, n),
    }


def standard(table):
    return {STANDARD[name]: values for name, values in table.items()}


def core_by_hand(pairs, k):
    """The pairs whose user and item have k distinct pairs, one removal after another."""
    left = set(pairs)
    while True:
        for axis in (0, 1):
            few = next((p[axis] for p in sorted(left) if sum(q[axis] == p[axis] for q in left) < k), None)
            if few is not None:
                left = {pair for pair in left if pair[axis] != few}
                break
        else:
            return left


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=50), st.integers(1, 4))
def test_k_core_is_what_repeated_removal_leaves(pairs, k):
    users, items = np.array(pairs, np.int64).T
    expected = core_by_hand(pairs, k)
    assert k_core(users, items, k).tolist() == [pair in expected for pair in pairs]


def in_core(table, k):
    """The rows of a table in the k-core, as those that a user has filtered beforehand."""
    pairs = list(zip(table["customer"].tolist(), table["film"].tolist(), strict=True))
    core = core_by_hand(pairs, k)
    return {name: values[[pair in core for pair in pairs]] for name, values in table.items()}


@pytest.mark.parametrize("rule", ["random", "time", "last"])
@pytest.mark.parametrize("catalogue", ["none", "list", "ids"])
def test_min_interactions_equals_filtered_data(rule, catalogue, tmp_path):
    """Also with items.csv and .npy features in its order, or with features that have ids."""
    table = columns()
    core = in_core(table, 6)
    assert 0 < len(core["film"]) < len(table["film"])
    features = np.random.default_rng(1).standard_normal((45, 3)).astype(np.float32)
    for name, rows in (("all", table), ("core", core)):
        folder = tmp_path / name
        folder.mkdir()
        write_table(folder / "interactions.csv", standard(rows))
        ids = np.arange(44, -1, -1) * 10
        kept = np.isin(ids, rows["film"]) if name == "core" else np.ones(45, bool)
        if catalogue == "list":
            write_table(folder / "items.csv", {"item": ids[kept]})
            np.save(folder / "text_feat.npy", features[kept])
        elif catalogue == "ids":
            np.savez(folder / "text_feat.npz", ids=ids[kept], features=features[kept])
    found, expected = load(tmp_path / "all", split=rule, min_interactions=6), load(tmp_path / "core", split=rule)
    assert found.fingerprint == expected.fingerprint
    assert found.item_ids.tolist() == expected.item_ids.tolist()
    assert found.user_ids.tolist() == expected.user_ids.tolist()
    for modality in expected.features:
        assert np.array_equal(found.features[modality], expected.features[modality])
    users, items = (len(np.unique(table[name])) for name in ("customer", "film"))
    removed = [users - found.n_users, items - len(np.unique(core["film"]))]
    assert (
        f"interactions.csv: {removed[0]} of {users} users and {removed[1]} of {items} items with fewer than 6 "
        f"interactions removed, repeatedly, and so {400 - len(core['film'])} of 400 rows"
    ) in found.notes
    assert ("catalogue: " in "\n".join(found.notes)) == (catalogue != "none")


def test_min_interactions_counts_after_min_rating(tmp_path):
    table = standard(columns())
    write_table(tmp_path / "interactions.csv", table)
    found = load(tmp_path, min_rating=3, min_interactions=4)
    good = tmp_path / "good"
    good.mkdir()
    write_table(good / "interactions.csv", {name: values[table["rating"] >= 3] for name, values in table.items()})
    assert found.fingerprint == load(good, min_interactions=4).fingerprint
    assert found.fingerprint != load(tmp_path, min_interactions=4).fingerprint


def test_min_interactions_in_a_folder_of_mmrec(tmp_path):
    write_mmrec(small_dataset(), tmp_path)
    with pytest.raises(InputError) as caught:
        load(tmp_path, min_interactions=6)
    one_line(caught, "shop.inter", "min_interactions = 6", "column x_label", "--split random")
    data = load(tmp_path, min_interactions=6, split="random")
    whole = load(tmp_path, split="random")
    assert data.n_items < whole.n_items
    assert np.array_equal(data.features["text"], whole.features["text"][data.item_ids])
    everything = data.train + data.val + data.test
    assert min(np.diff(everything.indptr).min(), np.diff(everything.tocsc().indptr).min()) >= 6


def test_min_interactions_that_leaves_nothing_is_refused(tmp_path):
    write_table(tmp_path / "interactions.csv", standard(columns()))
    with pytest.raises(InputError) as caught:
        load(tmp_path, min_interactions=50)
    one_line(caught, "interactions.csv: min_interactions = 50 leaves nothing of 40 users")
    with pytest.raises(InputError) as caught:
        load(tmp_path, min_interactions=0)
    one_line(caught, "min_interactions = 0: must be at least 1")


@pytest.mark.parametrize("options", [{}, {"split": "time"}, {"split": "last", "min_rating": 3}], ids=str)
@pytest.mark.parametrize("file", ["sales.csv", "sales.parquet"])
def test_columns_of_other_names_give_the_same_data(file, options, tmp_path):
    table = columns()
    write_table(tmp_path / file, table)
    write_table(tmp_path / "interactions.csv", standard(table))
    expected = load(tmp_path, **options)
    found = load(tmp_path, interactions=file, **OWN, **options)
    assert found.fingerprint == expected.fingerprint
    prepared = prepare_data(tmp_path, tmp_path / "prepared", interactions=file, **OWN, **options)
    assert prepared.fingerprint == expected.fingerprint
    assert prepared.user_ids.tolist() == expected.user_ids.tolist()


def test_prepare_applies_min_interactions(tmp_path):
    """Also to Parquet, whose rows are then read into memory, but not to loose parts."""
    write_table(tmp_path / "interactions.parquet", standard(columns()))
    expected = load(tmp_path, min_interactions=6)
    assert prepare_data(tmp_path, tmp_path / "out", min_interactions=6).fingerprint == expected.fingerprint
    loose = tmp_path / "loose"
    loose.mkdir()
    write_table(loose / "data_0.parquet", standard(columns()))
    with pytest.raises(InputError) as caught:
        prepare_data(loose, tmp_path / "other", min_interactions=6)
    one_line(caught, "loose: min_interactions = 6 needs an interactions.parquet")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "out", min_interactions=6)
    one_line(caught, "min_interactions = 6", "the layout prepared")


@pytest.mark.parametrize(("written", "sep"), [("^", "^"), ("\t", "\\t"), ("\t", "tab"), (" ", " ")])
def test_separator_is_the_given_one(written, sep, tmp_path):
    table = standard(columns())
    lines = [written.join(table)] + [written.join(map(str, row)) for row in zip(*table.values(), strict=True)]
    (tmp_path / "interactions.csv").write_text("\n".join(lines))
    (tmp_path / "other").mkdir()
    write_table(tmp_path / "other" / "interactions.csv", table)
    assert load(tmp_path, sep=sep).fingerprint == load(tmp_path / "other").fingerprint


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"sep": "::"}, ["sep = '::': must be one character"]),
        ({"sep": "é"}, ["sep = 'é': must be one character"]),
        ({"sep": ";"}, ["interactions.parquet: sep = ';' is for text tables"]),
        ({"user_column": "who"}, ["interactions.parquet: has no column who", "give --user-column user"]),
        ({"split_column": "fold"}, ["has no column fold", "give one of them with --split-column"]),
        ({"user_column": "item"}, ["user_column and item_column are both 'item'"]),
        ({"time_column": "when", "split": "time"}, ["has no column when", "--split time", "--time-column"]),
        ({"rating_column": "grade", "min_rating": 3}, ["has no column grade", "--min-rating 3", "--rating-column"]),
        ({"query": "select 1"}, ["query = 'select 1': give the database with --interactions"]),
        ({"query": "select 1", "interactions": "interactions.parquet"}, ["is not a DuckDB or SQLite database"]),
    ],
    ids=str,
)
def test_wrong_option_is_one_line(options, parts, tmp_path):
    write_table(tmp_path / "interactions.parquet", standard(columns()))
    with pytest.raises(InputError) as caught:
        load(tmp_path, **options)
    one_line(caught, *parts)


def database(kind, path, table):
    """A database with the table `sales`, which also has the columns of a view."""
    if kind == "duckdb":
        duckdb = pytest.importorskip("duckdb", reason="queries are tested where DuckDB is installed")
        with duckdb.connect(str(path)) as connection:
            sales = pa.table({name: values.tolist() for name, values in table.items()})
            connection.from_arrow(sales).create("sales")
        return
    pytest.importorskip("adbc_driver_sqlite", reason="queries to SQLite need its ADBC driver")
    connection = sqlite3.connect(path)
    connection.execute("create table sales (customer text, film int, bought int, stars int)")
    rows = list(zip(*(values.tolist() for values in table.values()), strict=True))
    connection.executemany("insert into sales values (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


KINDS = pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
QUERY = "select customer as user, film as item, max(bought) as timestamp from sales where stars >= 2 group by 1, 2"


@KINDS
def test_query_is_read_like_a_table(kind, tmp_path):
    table = columns()
    database(kind, tmp_path / "shop.db", table)
    latest = {}
    for row in zip(*(values.tolist() for values in table.values()), strict=True):
        if row[3] >= 2:
            latest[row[:2]] = max(row[2], latest.get(row[:2], 0))
    rows = np.array([(*pair, time) for pair, time in latest.items()], dtype=object).T
    write_table(tmp_path / "interactions.csv", dict(zip(("user", "item", "timestamp"), rows, strict=True)))
    expected = load(tmp_path, split="time", min_interactions=5)
    options = {"interactions": "shop.db", "query": QUERY, "split": "time", "min_interactions": 5}
    found = load(tmp_path, **options)
    assert found.fingerprint == expected.fingerprint
    assert found.item_ids.tolist() == expected.item_ids.tolist()
    assert prepare_data(tmp_path, tmp_path / "out", **options).fingerprint == expected.fingerprint
    own = load(tmp_path, interactions="shop.db", query="select * from sales", **OWN)
    renamed = load(tmp_path, interactions="shop.db", query="select customer as user, film as item from sales")
    assert own.fingerprint == renamed.fingerprint
    assert own.fingerprint != found.fingerprint


@KINDS
@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("", ["is a database; give --query", "its tables are 'sales'"]),
        ("selec 1", ["the query cannot be run", "its tables are 'sales'"]),
        ("select user from nosuch", ["the query cannot be run", "nosuch", "its tables are 'sales'"]),
        (
            "select film as item from sales",
            ["has no column user; its columns are item; give one of them with --user-column"],
        ),
        ("select customer as user, null as item from sales", ["item"]),
        ("select customer as user, film as item from sales where stars > 9", ["the training set is empty"]),
        ("delete from sales", ["shop.db"]),
    ],
    ids=str,
)
def test_wrong_query_is_one_line(kind, query, parts, tmp_path):
    database(kind, tmp_path / "shop.db", columns())
    before = (tmp_path / "shop.db").read_bytes()
    with pytest.raises(InputError) as caught:
        load(tmp_path, interactions="shop.db", query=query)
    one_line(caught, "shop.db" if "empty" not in parts[0] else "", *parts)
    assert (tmp_path / "shop.db").read_bytes() == before


def test_query_to_duckdb_reads_and_writes_no_other_files(tmp_path):
    """A configuration may come from somebody else. Views on files beside the database work."""
    duckdb = pytest.importorskip("duckdb", reason="queries are tested where DuckDB is installed")
    shop, other = tmp_path / "shop", tmp_path / "other"
    shop.mkdir()
    other.mkdir()
    for folder in (shop, other):
        write_table(folder / "sales.parquet", columns())
    with duckdb.connect(str(shop / "shop.db")) as connection:
        connection.execute(f"create view sales as select * from '{shop}/sales.parquet'")
    assert load(shop, interactions="shop.db", query="select * from sales", **OWN).train.nnz
    for query, part in {
        f"select * from '{other}/sales.parquet'": "the query cannot be run",
        f"copy sales to '{shop}/copy.parquet'": "must be one SELECT statement",
        f"select 1; copy sales to '{shop}/copy.parquet'": "must be one SELECT statement",
    }.items():
        with pytest.raises(InputError) as caught:
            load(shop, interactions="shop.db", query=query, **OWN)
        one_line(caught, "shop.db", part)
    assert not (shop / "copy.parquet").exists()


def test_query_to_sqlite_is_one_select_statement(tmp_path):
    """ATTACH would create a file, and of several statements the driver runs the first only."""
    database("sqlite", tmp_path / "shop.db", columns())
    select, new = "select customer as user, film as item from sales", f"'file:{tmp_path}/new.db?mode=rwc'"
    wrong = [
        f"attach {new} as new",
        f"vacuum into {new}",
        f"{select}; {select}",
        "begin",
        "reindex",
        "pragma user_version",
    ]
    for query in wrong:
        with pytest.raises(InputError) as caught:
            load(tmp_path, interactions="shop.db", query=query)
        one_line(caught, "shop.db: the query", "must be one SELECT statement")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]
    assert load(tmp_path, interactions="shop.db", query=f"with s as ({select}) select * from s; -- all").train.nnz


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        (
            "user, sum(item) as item, 1 as timestamp",
            "column item has the type decimal128(38, 0); ids and splits must be",
        ),
        ("user, item, interval 1 day as timestamp", "column timestamp has the type month_day_nano_interval; it must"),
        ("user, item, time '10:00' as timestamp", "column timestamp has the type time64[us]; it must contain numbers"),
    ],
)
def test_types_of_a_query_are_named(columns, part, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="queries are tested where DuckDB is installed")
    with duckdb.connect(str(tmp_path / "shop.db")) as connection:
        connection.execute("create table sales as select i % 9 as user, i::int as item from range(40) rows(i)")
    with pytest.raises(InputError) as caught:
        load(tmp_path, interactions="shop.db", query=f"select {columns} from sales group by all", split="time")
    one_line(caught, "shop.db", part, *(["cast the column to BIGINT"] if "sum" in columns else []))


@KINDS
def test_missing_driver_is_named(kind, tmp_path, monkeypatch):
    database(kind, tmp_path / "shop.db", columns())
    for name in ("duckdb", "adbc_driver_manager", "adbc_driver_sqlite"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError) as caught:
        load(tmp_path, interactions="shop.db", query=QUERY)
    one_line(caught, "shop.db: the package", "is not installed", "[sql]")


@KINDS
def test_convert_says_who_reads_a_database(kind, tmp_path):
    database(kind, tmp_path / "shop.db", columns())
    with pytest.raises(InputError) as caught:
        convert_data(tmp_path / "shop.db", tmp_path / "new")
    one_line(caught, "shop.db: is a database", "--interactions shop.db --query")


@KINDS
def test_run_remembers_how_its_data_is_read(kind, tmp_path, capsys):
    """Every option is in config.toml, and other rows in the database are other data."""
    path, table = tmp_path / "shop.db", columns()
    database(kind, path, table)
    options = ["--interactions", "shop.db", "--query", "select * from sales", "--min-interactions", "3"]
    for name, value in OWN.items():
        options += [f"--{name.replace('_', '-')}", value]
    options += ["--split", "time", "--min-rating", "2"]
    assert main(["data", "check", str(tmp_path), *options, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert any("fewer than 3 interactions" in note for note in described["notes"])
    run = tmp_path / "run"
    assert main(["train", "--data", str(tmp_path), "--out", str(run), *options, *SMALL]) == 0
    saved = load_config(run / "config.toml").data.model_dump()
    assert json.loads((run / "result.json").read_text())["data"]["fingerprint"] == described["fingerprint"]
    path.unlink()
    database(kind, path, {name: values[20:] for name, values in table.items()})
    assert (
        load(saved.pop("path"), seed=saved.pop("split_seed"), **saved | {"modalities": None}).fingerprint
        != (described["fingerprint"])
    )
    capsys.readouterr()
    fails(capsys, ["train", "--resume", str(run), "--epochs", "3"], "the data has changed")
