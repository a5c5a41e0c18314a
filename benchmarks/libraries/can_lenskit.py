"""What LensKit can do: see checks.py."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("lenskit")
checks = Checks("lenskit", driver.versions["lenskit"])

from lenskit import recommend  # noqa: E402
from lenskit.als import ImplicitMFScorer  # noqa: E402
from lenskit.data import Dataset, DatasetBuilder, ItemList, RecQuery, from_interactions_df  # noqa: E402
from lenskit.pipeline import topn_pipeline  # noqa: E402

data = driver.data
table = pd.read_parquet(data.folder / "interactions.parquet").rename(columns={"user": "user_id", "item": "item_id"})
train = from_interactions_df(data.frame("user_id", "item_id"))
pipeline = topn_pipeline(ImplicitMFScorer(), n=20)
pipeline.train(train)
user = int(data.user_ids[data.test_users[0]])

checks.searched("features from raw texts")
checks.searched("features from raw pictures")


@checks.can("split by time", "splitting.split_temporal_fraction(data, 0.1)")
def _():
    from lenskit.splitting import split_temporal_fraction

    timed = from_interactions_df(table[["user_id", "item_id", "timestamp"]])
    parts = split_temporal_fraction(timed, 0.1)
    return f"{parts.train.interaction_count} pairs for training"


@checks.exists(
    "minimum rating", "DatasetBuilder.filter_interactions", "by time and by other tables; ratings in pandas before"
)
def _():
    assert DatasetBuilder.filter_interactions


checks.searched("k-core", r"k_?core")


@checks.can("own column names", "from_interactions_df(frame, user_col=, item_col=)")
def _():
    from_interactions_df(table.rename(columns={"user_id": "u", "item_id": "i"})[["u", "i"]], user_col="u", item_col="i")


@checks.can("Parquet or SQL", "Dataset.save, Dataset.load", "its own Parquet folder; other tables through pandas")
def _():
    with tempfile.TemporaryDirectory() as folder:
        train.save(Path(folder) / "data")
        assert Dataset.load(Path(folder) / "data").interaction_count == train.interaction_count


@checks.can(
    "features of items in training", "DatasetBuilder.add_vector_attribute", "kept in the data; no scorer reads them"
)
def _():
    builder = DatasetBuilder(train)
    # One item is left out: with a vector for each, the attribute is lost (findings/lenskit-vectors-of-all-items.sh).
    builder.add_vector_attribute("item", "text", data.item_ids[1:], data.features("text")[1:])
    assert "text" in builder.build().entities("item").schema.attributes
    assert not [path for path in checks.hits(r"attribute\(") if path.parts[-2] in ("knn", "als", "flexmf", "sklearn")]


checks.searched("items without features", r"missing_features|mask.*feature")


@checks.can(
    "new items by features, ranked beside the others",
    "recommend(items=[known and new])",
    "an item that training lacks gets no score",
)
def _():
    found = pipeline.run("scorer", query=user, items=ItemList([int(data.item_ids[0]), 999_999_999]))
    assert np.isnan(found.scores()[1])


@checks.can("new users by history, without training", "recommend(pipeline, RecQuery(user_items=ItemList(ids)), n)")
def _():
    history = data.item_ids[data.items[data.users == data.test_users[0]]]
    new = recommend(pipeline, RecQuery(user_items=ItemList(history)), 20).ids()
    known = recommend(pipeline, user, 20).ids()
    return f"{len(set(new) & set(known))} of 20 items as for the trained user"


checks.searched("similar items", r"similar_items|def most_similar")


@checks.can("exclude what was bought since", "RecQuery(user_id=, user_items=ItemList(history and bought))")
def _():
    history = data.item_ids[data.items[data.users == data.test_users[0]]].tolist()
    first = recommend(pipeline, user, 5).ids()
    second = recommend(pipeline, RecQuery(user_id=user, user_items=ItemList([*history, *first[:2]])), 5).ids()
    assert not set(first[:2]) & set(second)


@checks.can(
    "candidates or filters", "recommend(pipeline, user, n, items=ItemList(ids))", "ids only; no filter by a column"
)
def _():
    allowed = data.item_ids[:100]
    assert set(recommend(pipeline, user, 5, items=ItemList(allowed)).ids()) <= set(allowed)


checks.searched("diversity")
checks.searched("warm start on new data", r"warm.?start|partial_fit|fine.?tun")


@checks.can(
    "export of embeddings", "scorer.item_embeddings, scorer.items.ids()", "arrays; no command and no file format"
)
def _():
    scorer = pipeline.node("scorer").component
    names = [name for name in vars(scorer) if "item" in name]
    assert names, vars(scorer).keys()
    return ", ".join(names)


checks.searched("approximate index")
checks.searched("ONNX or torch.export")
checks.searched("HTTP service")


@checks.exists("metrics beyond accuracy", "metrics.ILS, ExposureGini, ListGini, MeanPopRank, Entropy")
def _():
    from lenskit import metrics

    names = [name for name in dir(metrics) if any(part in name.lower() for part in ("gini", "ils", "entropy", "pop"))]
    assert names
    return ", ".join(names)


checks.none("confidence intervals", "grep finds the standard error stream only")
checks.none("paired tests", "grep finds other meanings only")
checks.searched("multi-modal systems", r"multi.?modal|visual|vbpr")
checks.searched("sequence models", r"sasrec|gru4rec|sequential recommend")


@checks.can("rating prediction", "predict_pipeline(BiasedMFScorer())")
def _():
    from lenskit import predict
    from lenskit.als import BiasedMFScorer
    from lenskit.pipeline import predict_pipeline

    rated = from_interactions_df(table[["user_id", "item_id", "rating"]])
    pipe = predict_pipeline(BiasedMFScorer())
    pipe.train(rated)
    assert np.isfinite(predict(pipe, user, ItemList(data.item_ids[:3])).scores()).all()


@checks.exists("hyper-parameter search", "lenskit.tuning, command lenskit tune")
def _():
    import lenskit.tuning  # noqa: F401


@checks.exists("training on a GPU", "TrainingOptions(device=)", "not run: no GPU here; the torch models only")
def _():
    from lenskit.training import TrainingOptions

    TrainingOptions(device="cpu")


checks.end()
