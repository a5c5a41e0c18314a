"""What RecPack can do: see checks.py."""

import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("recpack")
checks = Checks("recpack", driver.versions["recpack"])

from recpack import algorithms, scenarios  # noqa: E402
from recpack.matrix import InteractionMatrix  # noqa: E402
from recpack.preprocessing import filters  # noqa: E402
from recpack.preprocessing.preprocessors import DataFramePreprocessor  # noqa: E402

data, matrix = driver.data, driver.data.matrix()
table = pd.read_parquet(data.folder / "interactions.parquet")
knn = algorithms.ItemKNN(K=100)
knn.fit(matrix)

checks.searched("features from raw texts")
checks.searched("features from raw pictures")


@checks.can("split by time", "scenarios.Timed, WeakGeneralization, StrongGeneralizationTimed, …")
def _():
    made = scenarios.Timed(t=1494207076)
    made.split(InteractionMatrix(table, "item", "user", timestamp_ix="timestamp"))
    return f"{made.full_training_data.num_interactions} pairs for training"


@checks.can("minimum rating", "preprocessing.filters.MinRating")
def _():
    return f"{len(filters.MinRating(4, 'rating').apply(table))} pairs"


@checks.can(
    "k-core",
    "preprocessing.filters.NMostPopular, MinItemsPerUser, MinUsersPerItem",
    "each filter once, in the given order",
)
def _():
    left = filters.MinItemsPerUser(5, "item", "user").apply(table)
    return f"{len(left)} pairs"


@checks.can("own column names", "DataFramePreprocessor(item_ix, user_ix, timestamp_ix)")
def _():
    DataFramePreprocessor("item", "user", "timestamp").process(table)


checks.searched("Parquet or SQL", r"read_parquet|sqlite|duckdb|read_sql")
checks.searched("features of items in training", r"item_features|metadata matrix|side information")
checks.searched("items without features", r"missing_features|mask_feature")
checks.searched("new items by features, ranked beside the others", r"cold.?item|item_features")


@checks.can("new users by history, without training", "predict(matrix of histories)")
def _():
    scores = knn.predict(matrix[[5]])
    assert scores.shape[0] == 1


checks.searched("similar items", r"similar_items|most_similar\(")
checks.none("exclude what was bought since", "predict() returns scores; the pipeline removes the history only")
checks.none("candidates or filters", "predict() returns scores of all items")
checks.searched("diversity")
checks.searched("warm start on new data", r"warm_?start|partial_fit")


@checks.can("export of embeddings", "similarity_matrix_, user_embedding_, item_embedding_", "arrays by index")
def _():
    assert knn.similarity_matrix_.shape[0] == len(data.item_ids)


checks.searched("approximate index")
checks.searched("ONNX or torch.export")
checks.searched("HTTP service")


@checks.exists("metrics beyond accuracy", "metrics.CoverageK, IPSHitRateK")
def _():
    from recpack import metrics

    assert metrics.CoverageK


checks.none("confidence intervals", "grep finds the bootstrap sampling of losses only")
checks.searched("paired tests")
checks.searched("multi-modal systems")


@checks.exists("sequence models", "algorithms.GRU4RecCrossEntropy, GRU4RecNegSampling, STAN, …")
def _():
    assert algorithms.GRU4RecNegSampling


checks.searched("rating prediction", r"\brmse\b|predict_rating")


checks.say(
    "hyper-parameter search",
    "partly",
    "read",
    "pipelines.PipelineBuilder.add_algorithm(grid=, optimisation_info=)",
    "not run: recpack.pipelines needs pkg_resources, which setuptools no longer has",
)


@checks.exists("training on a GPU", "TorchMLAlgorithm", "not run: no GPU here")
def _():
    from recpack.algorithms.base import TorchMLAlgorithm  # noqa: F401


assert np.isfinite(matrix.sum())
checks.end()
