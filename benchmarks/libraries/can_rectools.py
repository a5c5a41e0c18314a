"""What RecTools can do: see checks.py."""

import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("rectools", "implicit")
checks = Checks("rectools", driver.versions["rectools"])

from implicit.nearest_neighbours import TFIDFRecommender  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset, Interactions  # noqa: E402
from rectools.models import ImplicitALSWrapperModel, ImplicitItemKNNWrapperModel, PureSVDModel  # noqa: E402

data = driver.data
table = pd.read_parquet(data.folder / "interactions.parquet")
table = table.rename(columns={"user": Columns.User, "item": Columns.Item, "rating": Columns.Weight})
table[Columns.Datetime] = pd.to_datetime(table["timestamp"], unit="s")
train = Dataset.construct(table[table["split"] == "train"][[*Columns.Interactions]])
svd = PureSVDModel(factors=16).fit(train)
users = data.user_ids[data.test_users][:3].tolist()
history = table[(table["split"] == "train") & (table[Columns.User] == users[0])]

checks.searched("features from raw texts")
checks.searched("features from raw pictures")


@checks.can("split by time", "model_selection.TimeRangeSplitter, LastNSplitter")
def _():
    from rectools.model_selection import TimeRangeSplitter

    folds = list(TimeRangeSplitter("90D", n_splits=1).split(Interactions(table[[*Columns.Interactions]])))
    return f"{len(folds[0][0])} pairs for training"


checks.searched("minimum rating", r"min_rating|rating_threshold|min_weight")
checks.none("k-core", "fast_transformers drops users with few interactions; nothing repeats it for items")
checks.none("own column names", "Dataset.construct wants user_id, item_id, weight, datetime; pandas renames")
checks.searched("Parquet or SQL", r"read_parquet|sqlite|duckdb|read_sql")


@checks.can("features of items in training", "Dataset.construct(item_features_df=), LightFM, ALS, transformers, DSSM")
def _():
    films = pd.read_parquet(data.folder / "items.parquet")
    genres = films.assign(value=films["genres"].str.split("|")).explode("value")
    genres = genres.rename(columns={"item": "id"})[["id", "value"]].assign(feature="genre")
    genres = genres[genres["id"].isin(data.item_ids)]
    made = Dataset.construct(
        table[table["split"] == "train"][[*Columns.Interactions]],
        item_features_df=genres,
        cat_item_features=["genre"],
    )
    from implicit.als import AlternatingLeastSquares

    ImplicitALSWrapperModel(AlternatingLeastSquares(8, num_threads=1), fit_features_together=True).fit(made)


checks.none("items without features", "an item without rows in item_features_df has a row of zeros")


checks.say(
    "new items by features, ranked beside the others",
    "partly",
    "read",
    "recommend(items_to_recommend=)",
    "for users only: LightFM and DSSM embed items of the data set with features and no pairs; the others refuse",
)


@checks.can(
    "new users by history, without training",
    "recommend(users, dataset of their history)",
    "EASE, item-kNN and transformers",
)
def _():
    neighbours = ImplicitItemKNNWrapperModel(TFIDFRecommender(num_threads=1)).fit(train)
    renamed = history.assign(**{Columns.User: 999_999})
    both = pd.concat([table[table["split"] == "train"], renamed])[[*Columns.Interactions]]
    wide = Dataset(
        user_id_map=train.user_id_map.add_ids([999_999]),
        item_id_map=train.item_id_map,
        interactions=Interactions.from_raw(both, train.user_id_map.add_ids([999_999]), train.item_id_map),
    )
    found = neighbours.recommend([999_999, users[0]], wide, k=20, filter_viewed=True)
    lists = [set(rows[Columns.Item]) for _, rows in found.groupby(Columns.User)]
    return f"{len(lists[0] & lists[1])} of 20 items as for the trained user"


@checks.can("similar items", "recommend_to_items(target_items, dataset, k)")
def _():
    assert len(svd.recommend_to_items(data.item_ids[:2], train, k=5)) == 10


@checks.can(
    "exclude what was bought since",
    "filter_viewed with a newer data set",
    "the pairs of the data set given to recommend()",
)
def _():
    svd.recommend(users, train, k=5, filter_viewed=True)


@checks.can("candidates or filters", "recommend(items_to_recommend=)", "ids only; no filter by a column")
def _():
    allowed = data.item_ids[:200]
    found = svd.recommend(users, train, k=5, filter_viewed=True, items_to_recommend=allowed)
    assert set(found[Columns.Item]) <= set(allowed)


checks.searched("diversity")


@checks.exists("warm start on new data", "fit_partial(dataset, …)", "of transformers and LightFM")
def _():
    from rectools.models.base import ModelBase

    assert ModelBase.fit_partial


@checks.can("export of embeddings", "get_vectors(), save(path)", "arrays by internal id; models are pickles")
def _():
    _, vectors = svd.get_vectors()
    assert len(vectors) == train.item_id_map.size


@checks.exists(
    "approximate index",
    "tools.UserToItemAnnRecommender, ItemToItemAnnRecommender",
    "nmslib, which has no wheel for every Python",
)
def _():
    from rectools.tools import UserToItemAnnRecommender  # noqa: F401


checks.say("ONNX or torch.export", "partly", "read", "fast_transformers.unisrec", "of one model; not run")
checks.searched("HTTP service")


@checks.exists(
    "metrics beyond accuracy",
    "metrics.CatalogCoverage, MeanInvUserFreq, IntraListDiversity, Serendipity, AvgRecPopularity",
)
def _():
    from rectools import metrics

    assert metrics.Serendipity and metrics.CatalogCoverage


checks.searched("confidence intervals")
checks.none("paired tests", "grep finds other meanings of paired only")
checks.searched("multi-modal systems", r"multi.?modal|visual features|vbpr")


@checks.exists("sequence models", "models.SASRecModel, BERT4RecModel, HSTUModel")
def _():
    from rectools import models

    return ", ".join(name for name in dir(models) if "Rec" in name or "HSTU" in name)


checks.searched("rating prediction", r"predict_rating|rmse")
checks.searched("hyper-parameter search", r"optuna|hyperopt|grid_?search")


@checks.exists(
    "training on a GPU", "transformers through PyTorch Lightning, GPU ALS of implicit", "not run: no GPU here"
)
def _():
    from implicit.gpu import als  # noqa: F401


checks.end()
