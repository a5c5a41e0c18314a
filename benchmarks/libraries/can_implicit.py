"""What implicit can do: see checks.py."""

import tempfile
from pathlib import Path

import numpy as np
from checks import Checks
from protocol import Driver

driver = Driver("implicit")
checks = Checks("implicit", driver.versions["implicit"])

from implicit.als import AlternatingLeastSquares  # noqa: E402

data, matrix = driver.data, driver.data.matrix()
als = AlternatingLeastSquares(num_threads=1, random_state=0)
als.fit(matrix, show_progress=False)

checks.searched("features from raw texts", r"\b(tokeni[sz]er|sentence.transformers|tf-?idf vectori[sz]er)\b")
checks.searched("features from raw pictures", r"\b(image|pillow|PIL)\b")
checks.searched("split by time", r"time_?stamp|chrono|temporal")
checks.searched("minimum rating", r"min_rating|rating_threshold")
checks.searched("k-core", r"k_?core|min_interactions|min_freq")
checks.none("own column names", "fit() takes a SciPy matrix; ids and columns are the caller's")
checks.none("Parquet or SQL", "fit() takes a SciPy matrix")
checks.searched("features of items in training", r"item_features|side_information")
checks.searched("items without features", r"item_features|side_information")


@checks.can(
    "new items by features, ranked beside the others",
    "partial_fit_items(ids, item_users)",
    "new items by their first interactions, not by features",
)
def _():
    made = AlternatingLeastSquares(num_threads=1, random_state=0)
    made.fit(matrix, show_progress=False)
    made.partial_fit_items([matrix.shape[1]], matrix.T.tocsr()[[0]])
    assert made.item_factors.shape[0] == matrix.shape[1] + 1


@checks.can("new users by history, without training", "recommend(0, history, recalculate_user=True)")
def _():
    items, _ = als.recommend(0, matrix[[5]], N=20, recalculate_user=True)
    known, _ = als.recommend(5, matrix[[5]], N=20)
    return f"{len(set(items) & set(known))} of 20 items as for the trained user"


@checks.can("similar items", "similar_items(item, N)")
def _():
    ids, _ = als.similar_items(0, N=5)
    assert len(ids) == 5


@checks.can("exclude what was bought since", "recommend(user, matrix of seen and bought, filter_items=ids)")
def _():
    first, _ = als.recommend(5, matrix[[5]], N=5)
    second, _ = als.recommend(5, matrix[[5]], N=5, filter_items=first[:2].tolist())
    assert not set(first[:2]) & set(second)


@checks.can("candidates or filters", "recommend(user, matrix, items=ids)", "ids only; no filter by a column")
def _():
    ids, _ = als.recommend(5, matrix[[5]], N=5, items=np.arange(100))
    assert max(ids) < 100


checks.searched("diversity", r"\bmmr\b|diversi")


@checks.can("warm start on new data", "partial_fit_users(ids, rows), partial_fit_items")
def _():
    made = AlternatingLeastSquares(num_threads=1, random_state=0)
    made.fit(matrix, show_progress=False)
    made.partial_fit_users([3], matrix[[4]])


@checks.can("export of embeddings", "save(npz), user_factors, item_factors", "rows of the matrix, not ids")
def _():
    with tempfile.TemporaryDirectory() as folder:
        als.save(str(Path(folder) / "model.npz"))
        assert "item_factors" in np.load(Path(folder) / "model.npz")


@checks.exists("approximate index", "implicit.ann.faiss.FaissModel, .annoy, .nmslib")
def _():
    from implicit.ann import faiss  # noqa: F401


checks.searched("ONNX or torch.export")
checks.searched("HTTP service")
checks.searched("metrics beyond accuracy", r"coverage|novelty|diversity|gini")
checks.searched("confidence intervals")
checks.searched("paired tests")
checks.searched("multi-modal systems", r"multi.?modal|visual|vbpr")
checks.searched("sequence models", r"sasrec|gru4rec|sequential")
checks.searched("rating prediction", r"predict_rating|rmse|explicit rating")
checks.searched("hyper-parameter search", r"optuna|hyperopt|grid_?search")


@checks.exists("training on a GPU", "implicit.gpu.als.AlternatingLeastSquares", "not run: no GPU here")
def _():
    from implicit.gpu import als as gpu

    assert gpu.AlternatingLeastSquares


checks.end()
