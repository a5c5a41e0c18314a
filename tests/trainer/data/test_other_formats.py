"""Formats that are not read, tables that keep old versions, times in several units, names with spaces."""

import bz2
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from data_folders import one_line
from mmssl_trainer import prepare_data
from mmssl_trainer.data import InputError, load
from mmssl_trainer.data.convert import convert_data
from pyarrow import feather, parquet

TEXT = "user,item\n" + "".join(f"u{row % 7},i{row % 11}\n" for row in range(77))


def prepare(folder, **options):
    return prepare_data(folder, folder.parent / "prepared", **options)


def table(**more):
    rows = range(77)
    return pa.table({"user": [f"u{row % 7}" for row in rows], "item": [f"i{row % 11}" for row in rows], **more})


@pytest.mark.parametrize(
    ("sign", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta Lake table"),
        ("metadata/00000-45a2c166.metadata.json", "an Apache Iceberg table"),
        (".hoodie/hoodie.properties", "an Apache Hudi table"),
        ("_spark_metadata/0", "the output of a Spark stream"),
    ],
)
@pytest.mark.parametrize("read", [load, prepare])
def test_tables_that_keep_deleted_rows_in_their_folder_are_refused(tmp_path, sign, kind, read):
    """Deleting or replacing rows leaves their files in place; only the log says which are current."""
    place = tmp_path / "data" / "interactions.parquet"
    place.mkdir(parents=True)
    parquet.write_table(table(), place / "part-0.parquet")
    assert read(place).train.nnz  # as a plain table in parts
    (place / sign).parent.mkdir()
    (place / sign).touch()
    for folder in (place.parent, place):
        with pytest.raises(InputError) as caught:
            read(folder)
        one_line(caught, f"{place}: is {kind}")


@pytest.mark.parametrize("read", [load, prepare])
def test_the_data_folder_of_an_iceberg_table_is_refused(tmp_path, read):
    (tmp_path / "table" / "metadata").mkdir(parents=True)
    (tmp_path / "table" / "metadata" / "00000-45a2c166.metadata.json").touch()
    (tmp_path / "table" / "data").mkdir()
    parquet.write_table(table(), tmp_path / "table" / "data" / "part-0.parquet")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "table" / "data")
    one_line(caught, f"{tmp_path / 'table'}: is an Apache Iceberg table")


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("interactions.csv", TEXT)


@pytest.mark.parametrize(
    ("name", "write", "advice"),
    [
        ("interactions.zip", zipped, "an archive; unpack it"),
        ("interactions.csv.bz2", lambda path: path.write_bytes(bz2.compress(TEXT.encode())), "decompress it"),
        ("interactions.xlsx", lambda path: path.write_bytes(b"PK\3\4"), "save it as CSV"),
        ("interactions.jsonl", lambda path: path.write_text('{"user": 1, "item": 2}\n'), "polars.read_ndjson"),
        ("interactions.feather", lambda path: feather.write_feather(table(), path), "polars.read_ipc"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, name, write, advice):
    source = tmp_path / "source"
    source.mkdir()
    write(source / name)
    for read in (load, prepare):
        with pytest.raises(InputError) as caught:
            read(source)
        one_line(caught, str(source), name, advice)
    with pytest.raises(InputError) as caught:
        convert_data(source / name, tmp_path / "converted", "user", "item")
    one_line(caught, str(source / name), advice)


def test_a_binary_file_under_the_name_of_a_text_table_is_refused(tmp_path):
    feather.write_feather(table(), tmp_path / "interactions.csv")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "interactions.csv: is not UTF-8 text; write it as CSV or Parquet")


@pytest.mark.parametrize("read", [load, prepare])
@pytest.mark.parametrize("split", ["time", "last"])
def test_times_in_different_units_are_refused(tmp_path, read, split):
    """One day's export in milliseconds would otherwise be the future of all others."""
    source = tmp_path / "source" / "interactions.parquet"
    source.mkdir(parents=True)
    times = 1_600_000_000 + 10_000 * np.arange(77)
    for part, scale in enumerate((1, 1, 1000)):
        parquet.write_table(table(timestamp=times * scale), source / f"part-{part}.parquet")
    with pytest.raises(InputError) as caught:
        read(source.parent, split=split)
    one_line(caught, f"{source}: ", "1600000000 (seconds) and 1600000000000 (milliseconds); convert them to one")
    (source / "part-2.parquet").unlink()
    assert read(source.parent, split=split).train.nnz


@pytest.mark.parametrize("read", [load, prepare])
def test_times_beside_those_of_one_unit_are_not_refused(tmp_path, read):
    """0, −1 and 3600 stand for a missing time; as dates, they are microseconds from 1969 and 1970."""
    for scale, kind in ((1, pa.int64()), (1000, pa.int64()), (1, pa.timestamp("s"))):
        times = (1_600_000_000 + 10_000 * np.arange(77)) * scale
        times[:3] = (0, -1, 3600)
        source = tmp_path / f"{kind}-{scale}"
        source.mkdir()
        column = pa.array(times).cast(kind)
        parquet.write_table(table(timestamp=column), source / "interactions.parquet")
        assert read(source, split="time").train.nnz
        shutil.rmtree(tmp_path / "prepared", ignore_errors=True)


def test_names_with_spaces_at_their_ends_are_shown_as_such(tmp_path):
    (tmp_path / "interactions.csv").write_text(TEXT.replace("user,item", "user, item"))
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "its columns are user, ' item'; give --user-column user --item-column ' item'")
    header, *rows = TEXT.splitlines()
    numbered = [f",{header}", *(f"{number},{row}" for number, row in enumerate(rows))]  # as pandas writes an index
    (tmp_path / "interactions.csv").write_text("\n".join(numbered))
    assert any("column '' is not read" in note for note in load(tmp_path).notes)
