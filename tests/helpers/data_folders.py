"""Data folders for tests: one Dataset written in every layout."""

import json
import pickle
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from mmssl_trainer.data import SPLITS, synthetic, write_plain
from mmssl_trainer.data.dataset import build

WRITERS = {}


def writer(function):
    """Registers write_<layout>(data, folder) under the layout's name."""
    WRITERS[function.__name__.removeprefix("write_")] = function
    return function


def pairs(data, split):
    """[(user, item)] of a split, in row order."""
    matrix = getattr(data, split).tocoo()
    return list(zip(matrix.row.tolist(), matrix.col.tolist(), strict=True))


def small_dataset():
    """40 users, 30 items; the last user has a training pair only, the last item features only."""
    data = synthetic(seed=3, n_users=40, n_items=30, modalities={"image": 5, "text": 3})
    splits = {split: np.array(pairs(data, split)).T for split in SPLITS}
    splits = {split: (users[items < 29], items[items < 29]) for split, (users, items) in splits.items()}
    splits["train"] = tuple(np.append(side, last) for side, last in zip(splits["train"], (39, 0), strict=True))
    return build("small", "made", (40, 30), splits, data.features)


def one_line(caught, *parts):
    """Asserts that the error is one line and holds every part."""
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) <= 600
    for part in parts:
        assert str(part) in message, f"{part!r} not in {message!r}"


@writer
def write_diffmm(data, folder):
    for split, file in (("train", "trnMat.pkl"), ("val", "valMat.pkl"), ("test", "tstMat.pkl")):
        matrix = sp.coo_matrix(getattr(data, split).astype(np.float64))
        (folder / file).write_bytes(pickle.dumps(matrix, protocol=3))
    write_features(data, folder)


@writer
def write_hkuds(data, folder):
    for split in SPLITS:
        users = {}
        for user, item in pairs(data, split):
            users.setdefault(str(user), []).append(item)
        (folder / f"{split}.json").write_text(json.dumps(users))
    (folder / "train_mat").write_bytes(pickle.dumps(sp.csr_matrix(data.train)))
    write_features(data, folder)


@writer
def write_mmrec(data, folder):
    lines = ["userID\titemID\trating\ttimestamp\tx_label"]
    for label, split in enumerate(SPLITS):
        lines += [f"{user}\t{item}\t5.0\t1300000000\t{label}" for user, item in pairs(data, split)]
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    write_features(data, folder)


@writer
def write_plain_csv(data, folder):
    write_plain(data, folder, "csv")


@writer
def write_plain_parquet(data, folder):
    write_plain(data, folder, "parquet")


@writer
def write_plain_named(data, folder):
    """Features with ids, in reverse order: .npz and Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    write_plain(data, folder, "csv")
    for path in folder.glob("*_feat.npy"):
        path.unlink()
    ids = np.arange(data.n_items)[::-1]
    image, text = data.features["image"][ids], data.features["text"][ids]
    np.savez(folder / "image_feat.npz", ids=ids.astype(str), features=image)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(text.reshape(-1)), text.shape[1])
    parquet.write_table(pa.table({"item": ids, "vector": vectors}), folder / "text_feat.parquet")


def write_features(data, folder):
    for modality, values in data.features.items():
        np.save(Path(folder) / f"{modality}_feat.npy", values)
