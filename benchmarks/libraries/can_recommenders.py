"""What Microsoft recommenders can do: see checks.py."""

import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("recommenders")
checks = Checks("recommenders", driver.versions["recommenders"])

from recommenders.models.sar import SAR  # noqa: E402

data = driver.data
table = pd.read_parquet(data.folder / "interactions.parquet")
table = table.rename(columns={"user": "userID", "item": "itemID"})
films = pd.read_parquet(data.folder / "items.parquet")
frame = data.frame("userID", "itemID", rating=1.0)
sar = SAR(col_user="userID", col_item="itemID", col_rating="rating")
sar.fit(frame)
user = data.user_ids[data.test_users[0]]


@checks.can(
    "features from raw texts",
    "models.tfidf.TfidfRecommender",
    "TF-IDF with a tokeniser of BERT, for item-item lists; news models read words",
)
def _():
    from recommenders.models.tfidf.tfidf_utils import TfidfRecommender

    made = TfidfRecommender(id_col="item", tokenization_method="none")
    cleaned = made.clean_dataframe(films[:200], ["title", "genres"])
    counts, tokens = made.tokenize_text(cleaned)
    made.fit(counts, tokens)
    assert len(made.recommend_top_k_items(films[:200], k=3))


checks.searched("features from raw pictures")


@checks.can("split by time", "datasets.python_splitters.python_chrono_split")
def _():
    from recommenders.datasets.python_splitters import python_chrono_split

    parts = python_chrono_split(table, ratio=0.9)
    return f"{len(parts[0])} pairs for training"


checks.searched("minimum rating", r"rating_threshold|min_rating_value")


@checks.can("k-core", "python_chrono_split(min_rating=, filter_by=)", "filters users or items, once")
def _():
    from recommenders.datasets.split_utils import min_rating_filter_pandas

    left = min_rating_filter_pandas(table, min_rating=30, filter_by="item")
    assert left["itemID"].value_counts().min() >= 30


@checks.can("own column names", "col_user=, col_item=, …")
def _():
    SAR(col_user="u", col_item="i", col_rating="rating").fit(data.frame("u", "i", rating=1.0))


checks.none("Parquet or SQL", "functions take pandas or Spark frames")


@checks.exists(
    "features of items in training",
    "models.lightfm, xDeepFM, Wide & Deep, news models",
    "each with a data format of its own",
)
def _():
    import recommenders.models as models

    assert models


checks.searched("items without features", r"missing_features|mask_feature")


@checks.exists("new items by features, ranked beside the others", "TfidfRecommender", "item-item lists by texts only")
def _():
    from recommenders.models.tfidf.tfidf_utils import TfidfRecommender  # noqa: F401


@checks.can("new users by history, without training", "SAR.get_item_based_topk(items)")
def _():
    history = data.item_ids[data.items[data.users == data.test_users[0]]]
    seeds = pd.DataFrame({"userID": 999_999, "itemID": history, "rating": 1.0})
    new = sar.get_item_based_topk(seeds, top_k=20)
    known = sar.recommend_k_items(pd.DataFrame({"userID": [user]}), top_k=20, remove_seen=True)
    return f"{len(set(new['itemID']) & set(known['itemID']))} of 20 items as for the trained user"


@checks.can("similar items", "SAR.get_item_based_topk of one item")
def _():
    seeds = pd.DataFrame({"userID": 1, "itemID": data.item_ids[:1], "rating": 1.0})
    assert len(sar.get_item_based_topk(seeds, top_k=5)) == 5


checks.none(
    "exclude what was bought since", "recommend_k_items(test, top_k, sort_top_k, remove_seen): training pairs only"
)
checks.none("candidates or filters", "recommend_k_items(test, top_k, sort_top_k, remove_seen): no candidates")
checks.searched("diversity")
checks.searched("warm start on new data", r"warm_?start|partial_fit|incremental training")


@checks.can("export of embeddings", "SAR.item_similarity, per model", "arrays by internal index")
def _():
    assert sar.item_similarity.shape[0] == len(data.item_ids)


checks.searched("approximate index")
checks.searched("ONNX or torch.export")
checks.searched("HTTP service")


@checks.exists(
    "metrics beyond accuracy", "evaluation.python_evaluation: catalog_coverage, novelty, diversity, serendipity"
)
def _():
    from recommenders.evaluation.python_evaluation import catalog_coverage, serendipity  # noqa: F401


checks.searched("confidence intervals")
checks.searched("paired tests")
checks.searched("multi-modal systems")


checks.found(
    "sequence models",
    r"class SASREC",
    "models.sasrec, deeprec (GRU4Rec, SLi-Rec, NextItNet)",
    "not run: they need TensorFlow",
)


@checks.exists("rating prediction", "evaluation.python_evaluation.rmse, surprise, RBM, …")
def _():
    from recommenders.evaluation.python_evaluation import rmse  # noqa: F401


@checks.can("hyper-parameter search", "tuning.parameter_sweep", "a grid; notebooks show hyperopt and NNI")
def _():
    from recommenders.tuning.parameter_sweep import generate_param_grid

    assert generate_param_grid({"a": [1, 2]})


checks.found("training on a GPU", r"\bcuda\b", "TensorFlow and PyTorch models, ALS on Spark", "not run: no GPU here")


checks.end()
