"""split_dates: the parts of --split time begin on given dates."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from data_folders import one_line
from mmssl_trainer import InputError
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import load
from mmssl_trainer.data.prepare.run import prepare_data
from mmssl_trainer.data.write import write_table

START = datetime(2016, 1, 1, tzinfo=UTC)
DATES = "2016-03-01, 2016-04-01T12:00"
BOUNDS = datetime(2016, 3, 1, tzinfo=UTC), datetime(2016, 4, 1, 12, tzinfo=UTC)


def table(count=300):
    rng = np.random.default_rng(3)
    days = [START + timedelta(hours=int(hours)) for hours in rng.integers(0, 24 * 120, count)]
    days[:2] = BOUNDS  # a pair on the date itself is in the later part
    return {"user": np.arange(count) % 30, "item": rng.integers(0, 40, count)}, days


def as_column(days, unit):
    if unit == "date":
        return np.array([day.replace(tzinfo=None).isoformat() for day in days])
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return np.array([int(day.timestamp()) * factor for day in days])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("unit", ["date", "s", "ms", "us", "ns"])
def test_parts_begin_on_the_dates_in_every_unit(ending, unit, tmp_path):
    columns, days = table()
    write_table(tmp_path / f"interactions.{ending}", columns | {"timestamp": as_column(days, unit)})
    options = {"split": "time", "split_dates": DATES}
    if ending == "parquet" and unit == "date":
        columns = columns | {"timestamp": np.array([day.replace(tzinfo=None) for day in days], "datetime64[us]")}
        write_table(tmp_path / "interactions.parquet", columns)
    first = {}
    for user, item, day in zip(columns["user"].tolist(), columns["item"].tolist(), days, strict=True):
        first[user, item] = min(day, first.get((user, item), day))
    expected = {"train": set(), "val": set(), "test": set()}
    for pair, day in first.items():
        expected["test" if day >= BOUNDS[1] else "val" if day >= BOUNDS[0] else "train"].add(pair)
    assert all(expected.values())
    for data in (load(tmp_path, **options), prepare_data(tmp_path, tmp_path / "out", **options)):
        for split, pairs in expected.items():
            rows, found = getattr(data, split).nonzero()
            ids = data.original_users(rows).tolist(), data.original_items(found).tolist()
            assert set(zip(*ids, strict=True)) == pairs
        assert "split by time: from 2016-03-01 on for validation, from 2016-04-01T12:00 on for testing" in data.notes


def test_numbers_in_the_unit_of_the_timestamps(tmp_path):
    columns, _ = table()
    weeks = np.arange(300) % 52
    write_table(tmp_path / "interactions.csv", columns | {"timestamp": weeks})
    data = load(tmp_path, split="time", split_dates="40,46.5")
    assert data.train.nnz and data.val.nnz and data.test.nnz
    with pytest.raises(InputError) as caught:
        load(tmp_path, split="time", split_dates=DATES)
    one_line(caught, "the timestamps are at most 51 and so no Unix times; give numbers instead of dates")


@pytest.mark.parametrize(
    "text",
    ["2016-03-01", "2016-04-01,2016-03-01", "2016-03-01,2016-03-01", "1,2,3", "a,b", "4,2016-03-01", "nan,1", ","],
)
def test_wrong_dates_are_one_line(text, tmp_path):
    with pytest.raises(InputError) as caught:
        load(tmp_path, split="time", split_dates=text)
    one_line(caught, f"split_dates = {text!r}: give when validation begins and, later, testing, such as 2016-03-22")


def test_dates_need_the_split_by_time_and_work_from_the_command_line(tmp_path, capsys):
    with pytest.raises(InputError) as caught:
        load(tmp_path, split="last", split_dates=DATES)
    one_line(caught, "needs --split time")
    columns, days = table()
    write_table(tmp_path / "interactions.csv", columns | {"timestamp": as_column(days, "s")})
    assert main(["data", "check", str(tmp_path), "--split", "time", "--split-dates", DATES]) == 0
    assert "from 2016-03-01 on for validation" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "check", str(tmp_path), "--split", "time", "--split-dates", "2030-01-01,2031-01-01"]) == 0
    assert main(["data", "check", str(tmp_path), "--split", "time", "--split-dates", "1990-01-01,1991-01-01"]) == 2
    assert "the training set is empty" in " ".join("".join(capsys.readouterr()).split())
