"""Weights of interactions: every loader reads the same ones, and wrong ones are one line."""

import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from command_line import SMALL, fails
from data_folders import one_line, small_dataset, write_diffmm
from mmssl_trainer import InputError
from mmssl_trainer import load as load_model
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import load, summarise, write_plain
from mmssl_trainer.data.prepare.run import prepare_data
from mmssl_trainer.data.write import write_table


def columns(n=300, split=True):
    """With repeated pairs."""
    rng = np.random.default_rng(7)
    table = {
        "user": np.arange(n) % 25,
        "item": (40 * rng.random(n) ** 2).astype(int),
        "rating": rng.integers(1, 11, n) / 2,
        "timestamp": rng.integers(0, 10**6, n),
    }
    return table | ({"split": rng.choice(["train", "train", "train", "val", "test"], n)} if split else {})


def by_hand(table, data):
    """The weight of every training pair, a sum of rows, before the division by the mean: float64 [n]."""
    sums = {}
    for user, item, weight, split in zip(
        *(table[name].tolist() for name in ("user", "item", "rating")),
        table["split"].tolist() if "split" in table else ["train"] * len(table["user"]),
        strict=True,
    ):
        if split == "train":
            sums[user, item] = sums.get((user, item), 0) + weight
    rows, columns = data.train.nonzero()
    original = zip(data.original_users(rows).tolist(), data.original_items(columns).tolist(), strict=True)
    return np.array([sums[pair] for pair in original])


@pytest.mark.parametrize(
    "options", [{}, {"split": "random"}, {"split": "time"}, {"split": "last"}, {"min_rating": 2.5}], ids=str
)
def test_weights_of_equal_pairs_are_added_and_divided_by_their_mean(options, tmp_path):
    table = columns(split=not options.get("split"))
    write_table(tmp_path / "interactions.csv", table)
    data = load(tmp_path, weight_column="rating", **options)
    if "min_rating" in options:
        table = {name: values[table["rating"] >= 2.5] for name, values in table.items()}
    sums = by_hand(table, data)
    np.testing.assert_allclose(data.weights, sums / sums.mean(), rtol=1e-6)
    assert data.weights.dtype == np.float32 and data.weights.std() > 0.1
    assert (data.weighted.toarray()[data.train.nonzero()] == data.weights).all()
    counted = len(table["user"]) if "split" not in table else (table["split"] == "train").sum()
    plain = load(tmp_path, **options)
    # Of a table without a split, the rows of held-out pairs are not counted.
    if "split" in table:
        assert f"the weights of {counted - data.train.nnz} repeated rows are added" in "\n".join(data.notes)
    assert plain.weights is None and (plain.train != data.train).nnz == 0
    assert plain.fingerprint != data.fingerprint


def test_every_loader_gives_the_same_weights(tmp_path):
    table = columns()
    expected = None
    order = np.random.default_rng(1).permutation(len(table["user"]))
    shuffled = {name: values[order] for name, values in table.items()}
    for name in ("interactions.csv", "interactions.parquet", "interactions.tsv", "parts"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        if name == "parts":
            (folder / "interactions.parquet").mkdir()
            for half, rows in enumerate((slice(0, 90), slice(90, None))):
                part = {name: values[rows] for name, values in shuffled.items()}
                write_table(folder / "interactions.parquet" / f"part-{half}.parquet", part)
        elif name.endswith("tsv"):
            lines = ["\t".join(map(str, row)) for row in zip(*table.values(), strict=True)]
            (folder / name).write_text("\n".join(["\t".join(table), *lines]))
        else:
            write_table(folder / name, table)
        data = load(folder, weight_column="rating")
        prepared = prepare_data(folder, folder / "prepared", weight_column="rating")
        for found in (data, prepared, load(folder / "prepared")):
            expected = expected or found
            assert found.fingerprint == expected.fingerprint and (found.weights == expected.weights).all()


@pytest.mark.parametrize("kind", ["duckdb", "sqlite"])
def test_weights_from_a_query(kind, tmp_path):
    table = columns(split=False)
    write_table(tmp_path / "interactions.csv", table)
    path = tmp_path / f"shop.{kind}"
    if kind == "duckdb":
        duckdb = pytest.importorskip("duckdb", reason="queries are tested where DuckDB is installed")
        with duckdb.connect(str(path)) as connection:
            connection.from_arrow(pa.table({n: values.tolist() for n, values in table.items()})).create("sales")
    else:
        pytest.importorskip("adbc_driver_sqlite", reason="queries to SQLite need its ADBC driver")
        with sqlite3.connect(path) as connection:
            connection.execute('create table sales ("user" int, item int, rating real, timestamp int)')
            rows = list(zip(*(values.tolist() for values in table.values()), strict=True))
            connection.executemany("insert into sales values (?, ?, ?, ?)", rows)
        connection.close()
    query = 'select "user", item, rating as "how much" from sales'
    found = load(tmp_path, interactions=path.name, query=query, weight_column="how much")
    assert found.fingerprint == load(tmp_path, weight_column="rating").fingerprint


def test_weights_in_the_layout_of_mmrec(tmp_path):
    table = columns()
    names = {"user": "userID", "item": "itemID", "rating": "rating"}
    lines = ["\t".join([*names.values(), "x_label"])]
    label = {"train": "0", "val": "1", "test": "2"}
    for *row, split in zip(*(table[name].tolist() for name in (*names, "split")), strict=True):
        lines.append("\t".join([*map(str, row), label[split]]))
    (tmp_path / "shop.inter").write_text("\n".join(lines))
    data = load(tmp_path, weight_column="rating")
    sums = by_hand(table, data)
    np.testing.assert_allclose(data.weights, sums / sums.mean(), rtol=1e-6)


def test_equal_weights_are_no_weights(tmp_path):
    table = columns()
    _, first = np.unique(table["user"] * 100 + table["item"], return_index=True)
    table = {name: values[np.sort(first)] for name, values in table.items()}
    table["rating"] = np.full(len(first), 0.1)
    write_table(tmp_path / "interactions.csv", table)
    data = load(tmp_path, weight_column="rating")
    assert data.weights is None and data.fingerprint == load(tmp_path).fingerprint
    assert "weights: all training interactions have the weight 0.1, so weights change nothing" in data.notes


def test_sums_of_weights_do_not_depend_on_the_order_of_the_rows(tmp_path):
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1, and equal sums are no weights."""
    table = {"user": np.repeat([1, 2], 3), "item": np.full(6, 5), "rating": np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])}
    write_table(tmp_path / "interactions.csv", table | {"split": np.full(6, "train")})
    assert load(tmp_path, weight_column="rating").weights is None


def test_only_the_ratios_of_weights_matter(tmp_path):
    found = []
    for factor in (1, 4):
        folder = tmp_path / str(factor)
        folder.mkdir()
        table = columns()
        write_table(folder / "interactions.parquet", table | {"rating": factor * table["rating"]})
        found.append(load(folder, weight_column="rating").fingerprint)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "value, says",
    [
        ("0", "row 8 has the rating 0; a weight must be positive, so remove the row"),
        ("-1.5", "row 8 has the rating -1.5; a weight must be positive"),
        ("nan", "row 8 has the rating nan; it must be a number"),
        ("inf", "row 8 has the rating inf; it must be a number"),
        ("", "row 8 has "),
        ("much", "row 8 has the rating 'much'; it must be a number"),
        ("2020-01-01", "row 8 has the rating '2020-01-01'; it must be a number"),
    ],
)
def test_wrong_weights_name_their_row(value, says, tmp_path):
    table = columns()
    cells = list(map(str, table["rating"].tolist()))
    cells[7] = value
    write_table(tmp_path / "interactions.csv", table | {"rating": np.array(cells)})
    with pytest.raises(InputError) as caught:
        load(tmp_path, weight_column="rating")
    one_line(caught, "interactions.csv", says)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("options", [{"weight_column": "day"}, {"rating_column": "day", "min_rating": 4}], ids=str)
def test_times_are_no_ratings_and_no_weights(ending, options, tmp_path):
    """As microseconds, all of them would be large positive numbers."""
    days = np.datetime64("2020-01-01") + np.arange(300)
    cells = days.astype(str) if ending == "csv" else days
    path = tmp_path / f"interactions.{ending}"
    write_table(path, columns(split=False) | {"day": cells})
    for read in (load, lambda *a, **b: prepare_data(tmp_path, tmp_path / "out", **b)):
        with pytest.raises(InputError) as caught:
            read(tmp_path, **options)
        one_line(caught, path.name, "day", "must", "number")
    assert load(tmp_path, time_column="day", split="time").train.nnz


def test_a_row_that_does_not_count_may_have_any_weight(tmp_path):
    table = columns() | {"weight": np.ones(300)}
    table["weight"][table["rating"] < 2] = 0
    table["weight"][3], table["rating"][3] = 7, 5
    write_table(tmp_path / "interactions.csv", table)
    assert load(tmp_path, weight_column="weight", min_rating=2).weights is not None
    with pytest.raises(InputError) as caught:
        load(tmp_path, weight_column="weight")
    row = int(np.argmax(table["rating"] < 2)) + 1
    one_line(caught, f"row {row} has the weight 0;")


def test_weights_beyond_float32_are_refused(tmp_path):
    for values in ([1e-60, 1.0], [1e308, 1e308]):
        table = columns() | {"rating": np.resize(values, 300)}
        write_table(tmp_path / "interactions.parquet", table)
        with pytest.raises(InputError) as caught:
            load(tmp_path, weight_column="rating")
        one_line(caught, "weights of the training interactions range from", "give weights of similar sizes")


def test_options_that_do_not_fit_are_one_line(tmp_path):
    write_table(tmp_path / "interactions.csv", columns())
    with pytest.raises(InputError) as caught:
        load(tmp_path, weight_column="grade")
    one_line(caught, "interactions.csv: has no column grade", "leave out --weight-column")
    prepare_data(tmp_path, tmp_path / "prepared", weight_column="rating")
    other = tmp_path / "other"
    other.mkdir()
    write_diffmm(small_dataset(), other)
    for folder in (tmp_path / "prepared", other):
        with pytest.raises(InputError) as caught:
            load(folder, weight_column="rating")
        one_line(caught, "weight_column = 'rating' needs an interaction table")


@pytest.mark.parametrize(
    "weights, says",
    [
        (lambda w: w[:-1], "train_weights.npy: is float32"),
        (lambda w: w.astype(np.float64), "train_weights.npy: is float64"),
        (lambda w: np.where(np.arange(len(w)) == 5, 0, w).astype(np.float32), "has 0.0 at position 5"),
        (lambda w: np.where(np.arange(len(w)) == 5, np.nan, w).astype(np.float32), "has nan at position 5"),
        (None, "train_weights.npy: no such file"),
    ],
)
def test_damaged_weights_of_prepared_data(weights, says, tmp_path):
    write_table(tmp_path / "interactions.csv", columns())
    data = prepare_data(tmp_path, tmp_path / "prepared", weight_column="rating")
    path = tmp_path / "prepared" / "train_weights.npy"
    values = np.array(data.weights)
    path.unlink()
    if weights is not None:
        np.save(path, weights(values))
    with pytest.raises(InputError) as caught:
        load(tmp_path / "prepared")
    one_line(caught, says, "prepare the data again")


def test_written_weights_are_read_again(tmp_path):
    write_table(tmp_path / "interactions.csv", columns())
    data = load(tmp_path, weight_column="rating")
    for table in ("csv", "parquet"):
        again = load(write_plain(data, tmp_path / table, table), weight_column="weight")
        np.testing.assert_allclose(again.weights, data.weights, rtol=1e-6)


def test_data_check_describes_the_weights(tmp_path, capsys):
    write_table(tmp_path / "interactions.csv", columns())
    assert main(["data", "check", str(tmp_path), "--weight-column", "rating"]) == 0
    out = capsys.readouterr().out
    summary = summarise(load(tmp_path, weight_column="rating"))
    assert "weights of the training interactions" in out and f"{summary['weights']['max']:.3g}" in out
    assert "repeated rows are added" in " ".join(out.split())
    assert summarise(load(tmp_path))["weights"] is None


def test_a_run_with_weights_from_training_to_lists(tmp_path, capsys):
    """Its model needs neither the weights nor the table; training again with other weights needs a new run."""
    table, path, run = columns(split=False), tmp_path / "interactions.csv", tmp_path / "run"
    write_table(path, table)
    arguments = ["train", "--data", str(tmp_path), "--weight-column", "rating", "--out", str(run), *SMALL[2:]]
    assert main([*arguments, "--system", "lightgcn"]) == 0
    printed = " ".join("".join(capsys.readouterr()).split())
    assert "drawn in proportion to them; graphs and evaluation do not use them" in printed
    assert main(["train", "--resume", str(run), "--epochs", "3"]) == 0
    write_table(path, table | {"rating": table["rating"][::-1]})
    capsys.readouterr()
    fails(capsys, ["train", "--resume", str(run), "--epochs", "4"], "the data has changed since the run was started")
    (tmp_path / "history.csv").write_text("user,item,rating\nann,0,5\nann,1,1\n")
    path.unlink()
    assert main(["evaluate", str(run)]) == 0
    assert main(["recommend", str(run), "--history", str(tmp_path / "history.csv"), "--k", "3"]) == 0
    assert load_model(run).interactions.train.max() == 1
