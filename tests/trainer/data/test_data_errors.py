"""Every mistake in the data gives one line that names the file and the row or key."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from data_folders import WRITERS, one_line, small_dataset
from mmssl_trainer.data import InputError, load, write_plain


@pytest.fixture(scope="module")
def small():
    return small_dataset()


def text(name, content):
    """Damage: the file holds this text (or bytes) instead."""
    return lambda folder, data: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def swap(name, old, new):
    """Damage: the first `old` in the file becomes `new`."""

    def damage(folder, data):
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))

    return damage


def matrix(name, value):
    """Damage: the file is this matrix, pickled."""
    return lambda folder, data: (folder / name).write_bytes(pickle.dumps(value))


def features(make):
    """Damage: text_feat.npy is make(the right values)."""
    return lambda folder, data: np.save(folder / "text_feat.npy", make(data.features["text"].copy()))


def poisoned(value):
    """Damage: row 7, column 2 of text_feat.npy is `value`."""

    def make(values):
        values[7, 2] = value
        return values

    return features(make)


def gone(*names, then=None):
    """Damage: these files are missing; then another damage."""

    def damage(folder, data):
        for name in names:
            (folder / name).unlink()
        if then is not None:
            then(folder, data)

    return damage


# damage and the parts of the message, separated by " | "
ERRORS = {
    "diffmm": [
        (gone("valMat.pkl"), "valMat.pkl | no such file"),
        (matrix("tstMat.pkl", sp.coo_matrix((40, 31))), "tstMat.pkl | 40 x 31 | 40 x 30"),
        (matrix("trnMat.pkl", sp.coo_matrix((40, 30))), "training set is empty"),
        (matrix("trnMat.pkl", sp.coo_matrix(-np.eye(40, 30))), "trnMat.pkl | user 0, item 0 | -1"),
        (matrix("trnMat.pkl", np.eye(3)), "trnMat.pkl | not a SciPy"),
        (
            matrix("trnMat.pkl", sp.coo_matrix(([1.0], ([0], [0])), shape=(2**31 - 2, 30))),
            "trnMat.pkl | 2147483646 users",
        ),
        (features(lambda right: np.ones((29, 3))), "text_feat.npy | 29 rows | 30 items"),
        (features(lambda right: np.ones((31, 3))), "text_feat.npy | 31 rows | 30 items"),
    ],
    "hkuds": [
        (gone("test.json"), "test.json | no such file"),
        (text("train.json", "{}"), "training set is empty"),
        (text("val.json", '{"3": [30]}'), "train_mat | 30 items | item 30"),
        (text("val.json", '{"40": [3]}'), "train_mat | 40 users | user 40"),
        (text("val.json", '{"3": [-1]}'), "val.json | user 3 | -1"),
        (text("val.json", '{"3": ["x"]}'), "val.json | user 3 | 'x'"),
        (text("val.json", '{"3": [true]}'), "val.json | user 3 | True"),
        (text("val.json", '{"3": 7}'), "val.json | user 3 | 7"),
        (text("val.json", '{"ann": [3]}'), "val.json | 'ann'"),
        (text("val.json", '{"3": [1], "3": [2]}'), "val.json | user 3 occurs twice"),
        (text("val.json", '[["3", [1]]]'), "val.json | {user: [items]}"),
        (text("val.json", '{"3": [1'), "val.json | JSON"),
        (text("val.json", b'{"3": "\xff"}'), "val.json | JSON"),
    ],
    "mmrec": [
        (text("other.inter", "userID\titemID\n1\t1\n"), "2 .inter files"),
        (swap("shop.inter", "itemID", "item_id"), "shop.inter | no column itemID | item_id"),
        (swap("shop.inter", "0\t5.0", "300\t5.0"), "image_feat.npy | 30 rows | shop.inter | item"),
        (text("shop.inter", "userID\titemID\n0\t1\n0\tB01\n"), "shop.inter | row 2 | itemID | 'B01'"),
        (text("shop.inter", "userID\titemID\n-4\t1\n"), "shop.inter | row 1 | userID | '-4'"),
        (text("shop.inter", "userID\titemID\n9000000000\t1\n"), "shop.inter | 9000000001 users"),
        (text("shop.inter", "userID\titemID\tx_label\n0\t1\t0\n0\t1\t3\n"), "shop.inter | row 2 | x_label '3'"),
        (text("shop.inter", "userID\titemID\tx_label\n0\t1\t1\n"), "training set is empty"),
        (text("shop.inter", "userID\titemID\n"), "training set is empty"),
        (text("shop.inter", ""), "shop.inter | no column userID"),
        (
            text("shop.inter", "userID\titemID\n0\t1\n0\n"),
            "shop.inter | not a readable table | row 2: Expected 2 columns",
        ),
    ],
    "plain_csv": [
        (swap("interactions.csv", "user", "who"), "interactions.csv | no column user"),
        (swap("interactions.csv", '"train"', '"training"'), "interactions.csv | row 1 | 'training'"),
        (text("interactions.csv", "user,item,split\n1,2,train\n,3,train\n"), "interactions.csv | row 2 | no user"),
        (text("interactions.csv", "user,item\n1,2\n1,99\n"), "interactions.csv | row 2 | '99' | items.csv"),
        (text("interactions.csv", "user,item\n1,2\n77,2\n"), "interactions.csv | row 2 | '77' | users.csv"),
        (text("interactions.csv", "user,item,user\n1,2,3\n"), "interactions.csv | 2 columns named user"),
        (text("items.csv", "item\n1\n2\n1\n"), "items.csv | row 3 | '1'"),
        (
            gone("items.csv", then=text("interactions.csv", "user,item\n1,2\n1,30\n")),
            "interactions.csv | row 2 | '30' | 0 to 29 | items.csv",
        ),
        (
            gone("items.csv", then=text("interactions.csv", "user,item\n1,a\n1,b\n")),
            "interactions.csv | row 1 has item 'a' | 30 rows of image_feat.npy | items.csv",
        ),
        (
            gone("items.csv", then=text("interactions.csv", "user,item\n1,1\n1,30\n")),
            "interactions.csv | row 2 has item '30' | subtract 1 from the ids",
        ),
        (gone("items.csv", then=text("interactions.csv", "user,item\n1,-1\n")), "interactions.csv | row 1 | '-1'"),
        (
            gone("items.csv", then=text("interactions.csv", "user,item\n" + "".join(f"1,{n}.0\n" for n in range(30)))),
            "interactions.csv | row 1 has item '0.0' | items.csv",
        ),
        (text("image_feat.npz", ""), "both image_feat.npz and image_feat.npy"),
        (text("interactions.csv", "1,2,5\n3,4,1\n"), "interactions.csv | first line '1, 2, 5' is data | data convert"),
        (
            text("interactions.csv", "userId,movieId\n1,2\n"),
            "no column user | --user-column userId --item-column movieId",
        ),
        (text("interactions.csv", "user,item\n1,2\n".encode("utf-16")), "interactions.csv | UTF-16"),
        (text("interactions.parquet", ""), "both interactions.parquet and interactions.csv"),
        (poisoned(np.nan), "text_feat.npy | row 7, column 2 | nan"),
        (poisoned(-np.inf), "text_feat.npy | row 7, column 2 | -inf"),
        (features(lambda right: right.astype(float) * 1e300), "text_feat.npy | row 0 | float32 cannot represent"),
        (features(lambda right: np.ones((30, 0), np.float32)), "text_feat.npy | has no columns"),
        (features(lambda right: np.ones(30, np.float32)), "text_feat.npy | 1 dimensions"),
        (features(lambda right: np.ones((30, 2, 2), np.float32)), "text_feat.npy | 3 dimensions"),
        (features(lambda right: np.ones((0, 3), np.float32)), "text_feat.npy | 0 rows"),
        (features(lambda right: np.ones((30, 3), complex)), "text_feat.npy | c16"),
        (text("text_feat.npy", "3 4 5"), "text_feat.npy | not a .npy file"),
        (gone("text_feat.npy", then=lambda f, d: (f / "text_feat.npy").mkdir()), "text_feat.npy | not a regular file"),
    ],
    "plain_parquet": [
        (text("interactions.parquet", b"PAR1"), "interactions.parquet | not a readable table"),
    ],
}
CASES = [(layout, *case) for layout, cases in ERRORS.items() for case in cases]


@pytest.mark.parametrize(("layout", "damage", "parts"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES])
def test_input_error_is_one_line_that_names_the_place(layout, damage, parts, small, tmp_path):
    WRITERS[layout](small, tmp_path)
    load(tmp_path)
    damage(tmp_path, small)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, *parts.split(" | "))
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_and_file_in_its_place_are_named(tmp_path):
    with pytest.raises(InputError) as caught:
        load(tmp_path / "nowhere")
    one_line(caught, tmp_path / "nowhere", "no such folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        load(tmp_path / "file")
    one_line(caught, tmp_path / "file", "is a file")


def test_pipe_in_place_of_a_file_is_refused_without_waiting(small, tmp_path):
    WRITERS["diffmm"](small, tmp_path)
    (tmp_path / "valMat.pkl").unlink()
    os.mkfifo(tmp_path / "valMat.pkl")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "valMat.pkl", "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads files whatever their permissions")
def test_unreadable_file_is_named(small, tmp_path):
    WRITERS["hkuds"](small, tmp_path)
    (tmp_path / "val.json").chmod(0)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "val.json", "permission")


def test_unreadable_content_is_named_when_the_system_refuses(small, tmp_path, monkeypatch):
    WRITERS["hkuds"](small, tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "train.json", "Permission denied")


def test_write_plain_refuses_a_folder_that_holds_data_or_cannot_be_made(small, tmp_path):
    write_plain(small, tmp_path / "new")
    with pytest.raises(InputError) as caught:
        write_plain(small, tmp_path / "new", "parquet")
    one_line(caught, tmp_path / "new", "is not empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        write_plain(small, tmp_path / "file" / "new")
    one_line(caught, tmp_path / "file", "cannot be written")


def test_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "interactions.csv").write_text("user,item\n1,2\n")

    def refuse(folder, options):
        raise PermissionError(13, "Permission denied", str(folder / "interactions.csv"))

    monkeypatch.setattr("mmssl_trainer.data.layouts.plain.read", refuse)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    one_line(caught, "interactions.csv: cannot be read (Permission denied); check its permissions")
