"""Hostile .npy, JSON, CSV, TSV and Parquet files: nothing crashes the process or costs memory beyond its own size."""

import gzip
import io
import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from data_folders import one_line
from data_fuzz import BYTES, FUZZ, JSON_FILES, mutations, npy, npy_header, survives, within_64_mib
from hypothesis import example, given
from hypothesis import strategies as st
from mmssl_trainer.data import InputError, load
from mmssl_trainer.data.features import read_features
from mmssl_trainer.data.layouts.hkuds import read_pairs
from mmssl_trainer.data.tables import plain_texts, read_table
from pyarrow import parquet


@pytest.fixture
def frugal():
    with within_64_mib():
        yield


# .npy


HEADERS = {
    "objects": (npy(npy_header("'|O'"), pickle.dumps([None] * 6)), "Python objects"),
    "structured": (npy(npy_header("[('a', '<f4')]"), bytes(24)), "dtype"),
    "structured objects": (npy(npy_header("[('a', '|O')]"), bytes(24)), "Python objects"),
    "huge": (npy(npy_header(shape="(1000000000000, 128)"), bytes(24)), "1000000000000 x 128"),
    "huge beyond int64": (npy(npy_header(shape="(99999999999999999999999, 2)"), bytes(24)), "contains 24 bytes"),
    "wraps to 24 bytes": (npy(npy_header(shape="(4611686018427387904, 4)"), b""), "contains 0 bytes"),
    "huge but zero wide": (npy(npy_header(shape="(1000000000000, 0)")), "has no columns"),
    "negative": (npy(npy_header(shape="(-3, -2)"), bytes(24)), "unsupported .npy header"),
    "short": (npy(npy_header(), bytes(23)), "contains 23 bytes"),
    "long": (npy(npy_header(), bytes(25)), "contains 25 bytes"),
    "expression": (npy(npy_header(shape="(__import__('os').getpid(), 2)"), bytes(24)), "unsupported .npy header"),
    "nested": (npy("(" * 60000), "unsupported .npy header"),
    "header longer than the file": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "unsupported .npy header"),
    "version": (b"\x93NUMPY\x09\x00\x01\x00 ", "not a .npy file"),
    "only magic": (b"\x93NUMPY", "not a .npy file"),
    "zip": (b"PK\x03\x04" + bytes(60), "not a .npy file"),
    "long double": (npy(npy_header("'<f16'"), bytes(96)), "dtype"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_absurd_npy_header_is_refused(case, tmp_path, frugal):
    content, part = HEADERS[case]
    (tmp_path / "image_feat.npy").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_features(tmp_path / "image_feat.npy")
    one_line(caught, "image_feat.npy", part)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_npy_version_is_read(version, tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    with (tmp_path / "image_feat.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version)
    np.testing.assert_array_equal(read_features(tmp_path / "image_feat.npy"), values)


# archives


@pytest.fixture(scope="module")
def bombs():
    """A table of 80 MiB in archives of a few hundred kilobytes."""
    table, folded = b"user,item\n" + b"1,1\n" * (20 << 20), io.BytesIO()
    with zipfile.ZipFile(folded, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("interactions.csv", table)
    return {"zip": folded.getvalue(), "gzip": gzip.compress(table, 1)}


@pytest.mark.parametrize("kind", ["zip", "gzip"])
@pytest.mark.parametrize(
    "name",
    [
        "interactions.csv",
        "interactions.parquet",
        "train.json",
        "trnMat.pkl",
        "a.inter",
        "interactions.csv.gz",
        "interactions.zip",
    ],
)
def test_archive_under_any_name_is_not_unfolded(name, kind, bombs, tmp_path):
    others = {"train.json": ("val.json", "test.json"), "trnMat.pkl": ("valMat.pkl", "tstMat.pkl")}.get(name, ())
    for one in (name, *others):
        (tmp_path / one).write_bytes(bombs[kind])
    with within_64_mib(), pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, tmp_path)
    with pytest.raises(InputError, match="is a file; give its folder"):
        load(tmp_path / name)


# JSON, CSV, TSV, Parquet

JSONS = {
    "deep list": ("[" * 200_000, "JSON"),
    "deep object": ('{"0":' * 200_000, "JSON"),
    "million digits": ('{"0": [' + "9" * 1_000_000 + "]}", "JSON"),
    "huge item": ('{"0": [99999999999999999999]}', "user 0 has the item"),
    "huge user": ('{"99999999999999999999": [1]}', "is not an index"),
    "million characters": ('{"' + "x" * 1_000_000 + '": [1]}', "is not an index"),
    "other digits": ('{"\u0663": [1]}', "is not an index"),
    "NaN": ('{"0": [NaN]}', "NaN"),
    "number too large": ('{"0": [1e999]}', "user 0 has the item inf"),
    "nested": ('{"0": [[1]]}', "a list"),
    "object": ('{"0": {"1": 2}}', "a JsonObject"),
    "empty object": ('{"0": {}}', "a JsonObject"),
    "null": ("null", "{user: [items]}"),
}


@pytest.mark.parametrize("case", JSONS)
def test_hostile_json_is_refused(case, tmp_path, frugal):
    content, part = JSONS[case]
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "train.json")
    one_line(caught, "train.json", part)


TABLES = {
    "million characters": b"user,item\n1," + b"x" * 1_000_000 + b"\n",
    "million columns": b"user,item" + b",x" * 500_000 + b"\n1,2\n",
    "line beyond a block": b"user,item\n1," + b"x" * (20 << 20) + b"\n",
    "header beyond a block": b"x" * (20 << 20),
    "not UTF-8": b"user,item\n1,\xff\xfe\n",
    "null character": b"user,item\n1,a\x00b\n",
    "escape": b"user,item\n1,\x1b[2J\n",
    "open quote": b'user,item\n1,"2\n1,3\n',
    "too many fields": b"user,item\n1,2\n1,2,3\n",
    "empty": b"",
    "nulls": bytes(1000),
}


@pytest.mark.parametrize("case", TABLES)
def test_hostile_table_is_refused(case, tmp_path):
    (tmp_path / "interactions.csv").write_bytes(TABLES[case])
    with pytest.raises(InputError) as caught:
        read_table(tmp_path / "interactions.csv", ["user", "item"])
    one_line(caught, "interactions.csv")


def test_parquet_of_other_types_and_nulls_is_refused(tmp_path):
    path = tmp_path / "interactions.parquet"
    columns = {
        "float": (pa.array([1.0, 2.0]), "type double"),
        "bool": (pa.array([True, False]), "type bool"),
        "nested": (pa.array([[1], [2]]), "type list"),
        "null": (pa.array([3, None]), "row 2 has no item"),
        "null text": (pa.array(["a", None]), "row 2 has no item"),
        "empty": (pa.array(["a", ""]), "row 2 has no item"),
        "long": (pa.array(["a", "b" * 201]), "row 2 has the item"),
        "binary": (pa.array([b"a", b"\xff"]), "type binary"),
    }
    for values, part in columns.values():
        parquet.write_table(pa.table({"user": pa.array([1, 2]), "item": values}), path)
        with pytest.raises(InputError) as caught:
            read_table(path, ["user", "item"])
        one_line(caught, path, part)


def test_parquet_that_unfolds_to_millions_of_rows_is_refused(tmp_path):
    path = tmp_path / "interactions.parquet"
    same = pa.array(np.zeros(4_000_000, np.int8))
    parquet.write_table(pa.table({"user": same, "item": same}), path, compression="zstd")
    assert path.stat().st_size < 50_000
    with pytest.raises(InputError) as caught:
        read_table(path, ["user", "item"])
    one_line(caught, path, "declares 4000000 rows")


# fuzzing


def _saved(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@FUZZ
@given(content=BYTES.map(lambda tail: b"\x93NUMPY\x01\x00" + tail) | mutations(_saved(np.ones((3, 2), np.float32))))
def test_fuzzed_features_are_finite_or_an_error(content, tmp_path):
    found = survives(read_features, tmp_path / "image_feat.npy", content)
    if found is not None:
        assert found.ndim == 2 and found.shape[1] > 0 and np.isfinite(found[~np.isnan(found).all(1)]).all()


@FUZZ
@given(content=BYTES | JSON_FILES | mutations(b'{"0": [1, 2], "1": [0], "17": []}'))
@example(content=b'{"1": [2147483646]}')
def test_fuzzed_json_gives_pairs_or_an_error(content, tmp_path):
    found = survives(read_pairs, tmp_path / "train.json", content)
    if found is not None:
        users, items = found
        assert len(users) == len(items) and (not len(users) or min(users.min(), items.min()) >= 0)


CSV = b'user,item,split\r\n1,a,train\n"x,""",b,val\n2,c,test\n'


@FUZZ
@given(content=BYTES.map(lambda tail: b"user,item\n" + tail) | mutations(CSV))
def test_fuzzed_csv_gives_whole_columns_or_an_error(content, tmp_path):
    found = survives(lambda path: read_table(path, ["user", "item"], ["split"]), tmp_path / "interactions.csv", content)
    if found is not None:
        assert len({len(column.codes) for column in found.values()}) == 1
        assert all(text for column in found.values() for text in column.texts)


def _parquet():
    file = io.BytesIO()
    parquet.write_table(pa.table({"user": pa.array(["a", "b", "a"]), "item": pa.array([1, 2, 3])}), file)
    return file.getvalue()


@FUZZ
@given(content=BYTES.map(lambda middle: b"PAR1" + middle + b"PAR1") | mutations(_parquet()))
def test_fuzzed_parquet_gives_whole_columns_or_an_error(content, tmp_path):
    found = survives(lambda path: read_table(path, ["user", "item"]), tmp_path / "interactions.parquet", content)
    if found is not None:
        assert len(found["user"].codes) == len(found["item"].codes)


def test_the_metadata_of_a_column_chunk_is_read_after_its_data_only(tmp_path):
    """With pyarrow 26.0.1, damaged metadata of a chunk end the process, while its data raise an error before."""
    path = tmp_path / "interactions.parquet"
    path.write_bytes(_parquet())

    class Group:
        num_rows, total_byte_size, num_columns = 3, 100, 2

        def column(self, leaf):
            pytest.fail("looked at the metadata of a damaged chunk")

    class Damaged:
        def __init__(self, file):
            columns = file.metadata.schema
            self.metadata = SimpleNamespace(
                schema=columns, num_columns=2, num_rows=3, num_row_groups=1, row_group=lambda _: Group()
            )

        def iter_batches(self, *_, columns, **__):
            raise OSError(f"damaged: {columns}")

    with parquet.ParquetFile(path) as file:
        assert plain_texts(path, file, ["user"]) == []
        with pytest.raises(OSError, match=r"damaged: \['user'\]"):
            plain_texts(path, Damaged(file), ["user"])


@FUZZ
@given(
    rows=st.lists(
        st.tuples(st.text(max_size=4), st.text("0123456789-", max_size=20), st.sampled_from(["0", "1", "2", "3", ""]))
    ),
    width=st.integers(0, 3),
    height=st.integers(0, 12),
)
def test_fuzzed_folders_load_or_give_an_error(rows, width, height, tmp_path):
    for layout, columns in (("mmrec", ("userID", "itemID", "x_label")), ("plain", ("user", "item", "kind"))):
        folder = tmp_path / layout
        folder.mkdir(exist_ok=True)
        name, separator = ("a.inter", "\t") if layout == "mmrec" else ("interactions.csv", ",")
        lines = [separator.join(columns)] + [separator.join((item, user, label)) for user, item, label in rows]
        (folder / name).write_text("\n".join(lines), encoding="utf-8", errors="replace", newline="")
        np.save(folder / "image_feat.npy", np.ones((height, width), np.float32))
        try:
            data = load(folder)
        except InputError as error:
            assert str(folder) in str(error)
            continue
        assert data.train.shape == (data.n_users, height) == (data.n_users, data.n_items)
        assert data.train.nnz > 0 and (np.diff(data.train.indptr) >= 0).all()
