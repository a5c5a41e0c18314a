"""make_features with a tiny encoder of the test: ids, missing and broken contents, resuming, messages."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmssl_trainer import InputError, configure, fit, load_data, make_features
from mmssl_trainer.cli.main import main
from mmssl_trainer.data.named_features import read_named_features
from mmssl_trainer.features.encoders import Unusable


class Letters:
    """The number of times that a text has each letter of abc. Refuses texts with a question mark."""

    part_rows, width = 3, 3

    def __init__(self, name="letters", width=3):
        self.identity, self.width, self.encoded = {"model": name}, width, []

    def load(self, content):
        if "?" in content:
            raise Unusable("has a question mark")
        return content

    def encode(self, inputs):
        self.encoded += inputs
        counts = [[text.count(letter) for letter in "abcdefgh"[: self.width]] for text in inputs]
        return np.where(np.array(["nan" in text for text in inputs])[:, None], np.nan, np.array(counts, float))


TITLES = ["ab", "aab", None, "  ", "c?", "abc", "b nan", "cc"]
IDS = [7, 3, 11, 2, 5, 13, 17, 19]


def shop(folder, **columns):
    path = folder / "items.parquet"
    pq.write_table(pa.table({"item": IDS, "title": pa.array(TITLES, pa.string()), **columns}), path)
    return path


def rows_of(path):
    table = pq.read_table(path).to_pydict()
    return dict(zip(table["item"], table["features"], strict=True))


EXPECTED = {7: [1, 1, 0], 3: [2, 1, 0], 11: None, 2: None, 5: None, 13: [1, 1, 1], 17: None, 19: [0, 0, 2]}


def test_parquet_has_null_for_what_is_missing_and_lists_what_was_skipped(tmp_path):
    calls = []
    made = make_features(
        "text",
        shop(tmp_path),
        tmp_path / "title_feat.parquet",
        Letters(),
        columns=["title"],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert rows_of(made.path) == EXPECTED and list(rows_of(made.path)) == IDS
    assert (made.items, made.width, made.missing, made.resumed) == (8, 3, 2, 0)
    reasons = {"5": "has a question mark", "17": "the vector that the model returned is not finite"}
    assert made.skipped == reasons
    assert made.skipped_file.read_text() == "item,content,reason\n5,c?,has a question mark\n17,b nan,{}\n".format(
        reasons["17"]
    )
    assert calls == [(0, 8), (3, 8), (6, 8), (8, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "items.parquet",
        "title_feat.parquet",
        "title_feat.parquet.skipped.csv",
    ]
    about = json.loads(pq.read_schema(made.path).metadata[b"mmssl_fast.features"])
    assert about == {"kind": "text", "columns": ["title"], "model": "letters"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ids", [IDS, [f"ü{n}" for n in IDS]])
def test_safetensors_are_read_by_the_loader(tmp_path, dtype, ids):
    """Every item has its own row; rows without content are left to the tests of missing rows."""
    path = tmp_path / "items.csv"
    texts = ["ab", "aab", '"a, ""b""\nc"', "b", "c", "abc", "b", "cc"]
    path.write_text("item,title\n" + "".join(f"{i},{text}\n" for i, text in zip(ids, texts, strict=True)))
    made = make_features("text", path, tmp_path / "t.safetensors", Letters(), columns=["title"], dtype=dtype)
    column, values = read_named_features(made.path)
    assert values.dtype == dtype and [column.texts[code] for code in column.codes] == [str(item) for item in ids]
    counts = [[1, 1, 0], [2, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 2]]
    np.testing.assert_array_equal(values, counts)


def test_several_columns_are_joined_and_may_be_empty(tmp_path):
    encoder = Letters()
    genres = ["a | b", None, "c", None, "", "a", "b", "c"]
    make_features("text", shop(tmp_path, genres=genres), tmp_path / "t.parquet", encoder, columns=["title", "genres"])
    assert encoder.encoded == ["ab. a, b", "aab", "c", "abc. a", "b nan. b", "cc. c"]


def test_folder_of_texts(tmp_path):
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "b.2.txt").write_text("ab")
    (folder / "more" / "a.md").write_bytes(b"\xef\xbb\xbfcc")
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes(b"\xff\xe4\xf6")
    (folder / ".hidden").write_text("aaa")
    made = make_features("text", folder, tmp_path / "t.parquet", Letters())
    assert rows_of(made.path) == {"b.2": [1, 1, 0], "a": [0, 0, 2], "empty": None, "latin": None}
    assert "UTF-8" in made.skipped["latin"] and made.missing == 1


def test_query(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table goods as select 5 as id, 'ab' as name union all select 6, null")
    query = "select id as item, name from goods order by id"
    made = make_features("text", path, tmp_path / "t.parquet", Letters(), columns=["name"], query=query)
    assert rows_of(made.path) == {5: [1, 1, 0], 6: None}
    with pytest.raises(InputError, match=r"is a database; give --query .*goods"):
        make_features("text", path, tmp_path / "u.parquet", Letters(), columns=["name"])


@pytest.mark.parametrize("end", ["parquet", "safetensors"])
def test_train_masks_what_is_missing(tmp_path, end):
    make_features("text", shop(tmp_path), tmp_path / f"title_feat.{end}", Letters(), columns=["title"])
    rows = "".join(f"{user},{item}\n" for user in range(6) for item in IDS[user % 3 :: 2])
    (tmp_path / "interactions.csv").write_text(f"user,item\n{rows}")
    data = load_data(tmp_path)
    expected = np.array([np.full(3, np.nan) if EXPECTED[item] is None else EXPECTED[item] for item in IDS])
    np.testing.assert_array_equal(data.features["title"], expected)
    fitted = fit(data, configure({"model.system": "mmssl", "train.epochs": 1, "model.neighbours": 2}))
    assert fitted.items.isfinite().all()


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("end", ["parquet", "safetensors"])
def test_an_interrupted_extraction_goes_on_and_ends_with_the_same_bytes(tmp_path, end):
    source = shop(tmp_path)
    whole = make_features("text", source, tmp_path / f"whole.{end}", Letters(), columns=["title"])

    class Interrupted(Letters):
        def encode(self, inputs):
            if "abc" in inputs:
                raise KeyboardInterrupt
            return super().encode(inputs)

    out = tmp_path / f"t.{end}"
    with pytest.raises(KeyboardInterrupt):
        make_features("text", source, out, Interrupted(), columns=["title"])
    assert not out.exists() and (tmp_path / f"t.{end}.parts").is_dir()
    encoder = Letters()
    made = make_features("text", source, out, encoder, columns=["title"])
    assert made.resumed == 3 and encoder.encoded == ["abc", "b nan", "cc"]
    assert sha(out) == sha(whole.path) and made.skipped == whole.skipped
    assert sha(made.skipped_file) == sha(whole.skipped_file) and not (tmp_path / f"t.{end}.parts").exists()


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from test_features import Letters
from mmssl_trainer import make_features
class Slow(Letters):
    def encode(self, inputs):
        time.sleep({pause})
        return super().encode(inputs)
made = make_features("text", {source!r}, {out!r}, Slow(), columns=["title"])
print(made.resumed)
"""


@pytest.mark.processes
def test_killed_process_goes_on(tmp_path):
    source, out = shop(tmp_path), tmp_path / "t.parquet"

    def start(pause):
        tests = os.path.dirname(__file__)
        code = SLOW.format(tests=tests, pause=pause, source=str(source), out=str(out))
        return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)

    process, first = start(5.0), tmp_path / "t.parquet.parts" / "000000.safetensors"
    try:
        deadline = time.monotonic() + 120
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert first.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    process = start(0.0)
    assert process.communicate()[0].strip() in ("3", "6") and process.returncode == 0
    whole = make_features("text", source, tmp_path / "whole.parquet", Letters(), columns=["title"])
    assert sha(out) == sha(whole.path)


def interrupted(tmp_path):
    source, out = shop(tmp_path), tmp_path / "t.parquet"

    class Interrupted(Letters):
        def encode(self, inputs):
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode(inputs)

    with pytest.raises(KeyboardInterrupt):
        make_features("text", source, out, Interrupted(), columns=["title"])
    return source, out


def test_resuming_with_something_else_is_refused(tmp_path):
    source, out = interrupted(tmp_path)
    with pytest.raises(InputError, match=r"parts: .*width was 3 and is now 5; remove the folder"):
        make_features("text", source, out, Letters(width=5), columns=["title"])
    with pytest.raises(InputError, match='model was "letters" and is now "other"'):
        make_features("text", source, out, Letters("other"), columns=["title"])
    shop(tmp_path, genres=["x"] * 8)
    with pytest.raises(InputError, match="the contents have changed since"):
        make_features("text", source, out, Letters(), columns=["title", "genres"])
    (tmp_path / "t.parquet.parts" / "000000.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"000000.safetensors: is damaged .*remove this file"):
        make_features("text", source, out, Letters(), columns=["title"])


def test_two_processes_do_not_write_the_same_features(tmp_path):
    source, out = interrupted(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from mmssl_trainer.files import lock; "
        f"lock(Path({str(out) + '.parts'!r}), 'x'); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().strip() == "locked"
            with pytest.raises(InputError, match="another process makes these features"):
                make_features("text", source, out, Letters(), columns=["title"])
        finally:
            process.kill()


def refused(tmp_path, message, source=None, out="t.parquet", **options):
    source = source or shop(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        make_features("text", source, tmp_path / out, Letters(), **{"columns": ["title"], **options})
    assert not (tmp_path / out).exists() or out == "there.parquet"
    assert "\n" not in str(caught.value)


def test_messages_name_the_file_the_column_and_the_row(tmp_path):
    refused(
        tmp_path,
        r"items.parquet: has no column name; its columns are item, title; give one of them with --column",
        columns=["name"],
    )
    refused(tmp_path, r"items.parquet: has no column asin.*give one of them with --item-column", item_column="asin")
    refused(tmp_path, "'item' is the column of the ids", columns=["item"])
    refused(tmp_path, "items.parquet: the column 'title' is given twice", columns=["title", "title"])
    refused(tmp_path, r"items.parquet: is a table; give the column to read with --column", columns=[])
    refused(tmp_path, "must end in .parquet or .safetensors", out="t.csv")
    refused(tmp_path, r"dtype = 'int8'", dtype="int8")
    refused(tmp_path, r"nowhere: no such folder", out="nowhere/t.parquet")
    refused(tmp_path, "no such file", source=tmp_path / "none.parquet")
    (tmp_path / "there.parquet").write_text("x")
    refused(tmp_path, r"there.parquet: exists; remove it", out="there.parquet")
    refused(tmp_path, r"sep = '::': must be one character", sep="::")
    refused(tmp_path, "sep = 'é': must be one character", sep="é")


@pytest.mark.parametrize("made", [[["a", "b", "c"]], [[1.0, 2.0], [1.0]]], ids=["texts", "ragged"])
def test_an_encoder_that_returns_no_rows_of_numbers_is_one_line(tmp_path, made):
    class Wrong(Letters):
        def encode(self, inputs):
            return made

    with pytest.raises(InputError, match=r"^the model does not return rows of numbers \([^\n]*\)$"):
        make_features("text", shop(tmp_path), tmp_path / "t.parquet", Wrong(), columns=["title"])


def test_options_of_a_table_are_refused_for_a_folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    for option, value in (("root", tmp_path), ("sep", ","), ("query", "select 1")):
        refused(
            tmp_path, f"{option} = .*: is for a table, but .*texts is a folder", folder, columns=[], **{option: value}
        )


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.txt")).write_text("a")
    refused(tmp_path, r"row 1 has the file name '\\udcff'; ids must", folder, columns=[])


def test_values_beyond_float16_are_refused_and_the_vectors_kept(tmp_path):
    class Large(Letters):
        def encode(self, inputs):
            return 1e5 * super().encode(inputs)

    encoder = Large()
    call = ("text", shop(tmp_path), tmp_path / "t.parquet", encoder)
    with pytest.raises(InputError, match=r"t.parquet: the features of '7' contain 100000, but float16 ends at 65504"):
        make_features(*call, columns=["title"], dtype="float16")
    assert not list(tmp_path.glob("t.parquet*.csv")) and not (tmp_path / "t.parquet").exists()
    encoder.encoded.clear()
    made = make_features(*call, columns=["title"])
    assert not encoder.encoded and made.resumed == 8 and rows_of(made.path)[3] == [2e5, 1e5, 0]


def test_columns_of_numbers_and_repeated_ids_are_refused(tmp_path):
    shop(tmp_path, year=list(range(8)))
    refused(
        tmp_path,
        "column year has the type int64; choose a column of text",
        tmp_path / "items.parquet",
        columns=["year"],
    )
    path = tmp_path / "items.csv"
    path.write_text("item,year,title\n1,1999,a\n2,,b\n1,2001,c\n")
    refused(tmp_path, r"items.csv: column year contains numbers only, such as '1999'", path, columns=["year"])
    refused(tmp_path, r"items.csv: row 3 repeats the item '1'", path)
    path.write_text("item,title\n1,a\n,b\n")
    refused(tmp_path, r"items.csv: row 2 has no item", path)
    path.write_text("item,title\n")
    refused(tmp_path, r"items.csv: contains no rows", path)


def test_nothing_that_can_be_used_is_an_error(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item,title\n8,what?\n9,\n")
    refused(tmp_path, r"no item has a content that can be used, such as '8': has a question mark", path)
    assert not (tmp_path / "t.parquet.parts").exists()
    folder = tmp_path / "texts"
    folder.mkdir()
    refused(tmp_path, "contains no files", folder, columns=[])
    (folder / "a.txt").write_text("a")
    (folder / "a.md").write_text("a")
    refused(tmp_path, r"a.md and a.txt have the same id 'a'", folder, columns=[])


def test_a_file_outside_of_the_folder_is_not_read(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("abc")
    (folder / "a.txt").write_text("ab")
    (folder / "inside.txt").symlink_to("a.txt")
    (folder / "outside.txt").symlink_to("../secret.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.txt")
    made = make_features("text", folder, tmp_path / "t.parquet", Letters())
    assert {item for item, row in rows_of(made.path).items() if row} == {"a", "inside"}
    assert "outside of the folder" in made.skipped["outside"] and "not a regular file" in made.skipped["pipe"]
    assert "loop" in made.skipped


def test_command_line(tmp_path, capsys):
    source = shop(tmp_path)
    for arguments, message in (
        (["text", str(source), "--column", "title", "--out", str(tmp_path / "t.csv"), "--model", "m"], "must end in"),
        (["image", str(source), "--out", str(tmp_path / "t.parquet"), "--model", "m"], "give a folder of files"),
        (["image", str(tmp_path), "--out", str(tmp_path / "t.parquet"), "--model", "m.onnx"], "m.onnx: no such model"),
        (["audio", str(tmp_path), "--out", str(tmp_path / "t.parquet"), "--rate", "3"], "rate = 3"),
    ):
        assert main(["features", *arguments]) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1
    assert main(["features"]) == 0 and "audio" in capsys.readouterr().out
