"""What Cornac can do: see checks.py."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("cornac")
checks = Checks("cornac", driver.versions["cornac"])

import cornac  # noqa: E402
from cornac.data import FeatureModality, ImageModality, Reader, TextModality  # noqa: E402

data = driver.data
table = pd.read_parquet(data.folder / "interactions.parquet")
films = pd.read_parquet(data.folder / "items.parquet")
rows = [(int(u), int(i), float(r), int(t)) for u, i, r, t in table[["user", "item", "rating", "timestamp"]].values]
pairs = [(int(u), int(i), 1.0) for u, i in zip(data.user_ids[data.users], data.item_ids[data.items], strict=True)]
train = cornac.data.Dataset.from_uir(pairs, seed=0)
written = str(Path(tempfile.mkdtemp()) / "ratings.tsv")
table[["user", "item", "rating"]].to_csv(written, sep="\t", header=False, index=False)
mf = cornac.models.BPR(max_iter=5, seed=0, num_threads=1).fit(train)
user = int(data.user_ids[data.test_users[0]])


@checks.can("features from raw texts", "TextModality(corpus=titles, ids=items), TransformersTextModality")
def _():
    made = TextModality(corpus=films["title"].tolist(), ids=films["item"].tolist(), max_vocab=500)
    made.build(id_map=train.iid_map)
    return f"bag of words {made.count_matrix.shape}; TransformersTextModality was not run"


@checks.can("features from raw pictures", "ImageModality(images=, paths=), TransformersVisionModality")
def _():
    made = ImageModality(images=np.zeros((4, 8, 8, 3), np.uint8), ids=[int(i) for i in data.item_ids[:4]])
    return f"{made.images.shape}"


@checks.can("split by time", "eval_methods.TimestampSplit(test_timestamp=), StratifiedSplit(chrono=True)")
def _():
    from cornac.eval_methods import TimestampSplit

    made = TimestampSplit(rows, val_timestamp=1458635629, test_timestamp=1494207076, fmt="UIRT")
    return f"{made.train_set.num_ratings} pairs for training"


@checks.can("minimum rating", "Reader(bin_threshold=4.0).read(path)")
def _():
    return f"{len(Reader(bin_threshold=4.0).read(written, 'UIR'))} pairs"


@checks.can("k-core", "Reader(min_user_freq=, min_item_freq=).read(path)", "filters users, then items, once")
def _():
    left = Reader(min_user_freq=30, min_item_freq=30).read(written, "UIR")
    assert pd.Series([row[0] for row in left]).value_counts().min() < 30, "repeated after all"


checks.none("own column names", "Reader.read(path, fmt='UIRT', sep=, skip_lines=): columns by their position")
checks.searched("Parquet or SQL")


@checks.can("features of items in training", "FeatureModality(features, ids), models.VBPR and others")
def _():
    made = FeatureModality(features=data.features("text"), ids=[int(i) for i in data.item_ids])
    made.build(id_map=train.iid_map)
    return str(made.features.shape)


checks.none(
    "items without features", "FeatureModality: an item without a row keeps what stood at its index, another item's"
)


@checks.can(
    "new items by features, ranked beside the others",
    "VBPR(...).fit(data whose id map has an item with features and no pairs).recommend(user)",
    "an item that comes after training has no score",
)
def _():
    new = int(next(item for item in films["item"] if item not in set(data.item_ids)))
    ids = [int(item) for item in data.item_ids]
    whole = cornac.data.Dataset.build([*pairs, (user, new, 1.0)], fmt="UIR", seed=0)
    known = cornac.data.Dataset.build(
        pairs, fmt="UIR", seed=0, global_uid_map=whole.uid_map, global_iid_map=whole.iid_map, exclude_unknowns=False
    )
    vectors = np.vstack([data.features("text"), data.features("text")[:1]])
    modality = FeatureModality(features=vectors, ids=[*ids, new], normalized=False).build(id_map=known.iid_map)
    known.add_modalities(item_image=modality, item_feature=modality)
    vbpr = cornac.models.VBPR(n_epochs=1, seed=0, verbose=False).fit(known)
    _, scores = vbpr.rank(known.uid_map[user])
    assert scores[whole.iid_map[new]] > scores.min(), "its features do not count"


checks.none("new users by history, without training", "recommend(user_id) refuses an id that training lacks")


@checks.can(
    "exclude what was bought since", "recommend(user, remove_seen=True, train_set=)", "only the pairs of one data set"
)
def _():
    assert len(mf.recommend(user, k=5, remove_seen=True, train_set=train)) == 5


@checks.can("candidates or filters", "rank(user_idx, item_indices=)", "by index; recommend() has no candidates")
def _():
    ranked, _ = mf.rank(0, item_indices=np.arange(50), k=5)
    assert max(ranked) < 50


checks.searched("similar items", r"def similar|most_similar|item_to_item")
checks.none("diversity", r"grep -ri '\bmmr\b|diversi': only losses of one model, LETTER")
checks.searched("warm start on new data", r"warm.?start|partial_fit|incremental")


@checks.can("export of embeddings", "get_item_vectors(), save(pickle)", "arrays by index; models are pickles")
def _():
    assert len(mf.get_item_vectors()) == train.num_items


@checks.exists("approximate index", "models.FaissANN, HNSWLibANN, AnnoyANN, ScaNNANN")
def _():
    assert cornac.models.HNSWLibANN and cornac.models.FaissANN


checks.searched("ONNX or torch.export")


@checks.can("HTTP service", "FLASK_APP=cornac.serving.app, GET /recommend", "known users, no filters; loads pickles")
def _():
    place = tempfile.mkdtemp()
    texts = cornac.data.Dataset.from_uir([(str(u), str(i), r) for u, i, r in pairs])
    path = cornac.models.BPR(max_iter=2, seed=0).fit(texts).save(place, save_trainset=True)
    os.environ |= {"MODEL_PATH": path, "MODEL_CLASS": "cornac.models.BPR"}
    from cornac.serving.app import app

    answer = app.test_client().get(f"/recommend?uid={user}&k=5&remove_seen=true")
    assert len(answer.json["recommendations"]) == 5


checks.none("metrics beyond accuracy", "cornac.metrics: accuracy only; grep finds only losses of LETTER")
checks.searched("confidence intervals")
checks.searched("paired tests")


@checks.exists("multi-modal systems", "models.VBPR, AMR, VMF, CausalRec, DMRL, ConvMF, CDL, …")
def _():
    names = ["VBPR", "AMR", "VMF", "CausalRec", "DMRL", "ConvMF", "CDL", "CVAE", "HFT", "MTER"]
    return ", ".join(name for name in names if hasattr(cornac.models, name))


@checks.exists("sequence models", "models.GRU4Rec, SPop, UPCF, TIFUKNN, …")
def _():
    assert cornac.models.GRU4Rec


@checks.can("rating prediction", "models.MF(...).fit(ratings)")
def _():
    cornac.models.MF(max_iter=2).fit(cornac.data.Dataset.from_uir([row[:3] for row in rows]))


@checks.exists("hyper-parameter search", "hyperopt.GridSearch, RandomSearch")
def _():
    from cornac.hyperopt import GridSearch, RandomSearch  # noqa: F401


checks.say("training on a GPU", "partly", "read", "models in PyTorch and TensorFlow", "not run: no GPU here")
checks.end()
