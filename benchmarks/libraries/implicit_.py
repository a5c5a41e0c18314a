"""implicit: ALS, BPR, logistic MF and three item-item models, with the settings they have by themselves."""

from protocol import Driver, K

driver = Driver("implicit")

from implicit.als import AlternatingLeastSquares  # noqa: E402
from implicit.bpr import BayesianPersonalizedRanking  # noqa: E402
from implicit.lmf import LogisticMatrixFactorization  # noqa: E402
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender  # noqa: E402

data = driver.data
matrix = data.matrix()


def model(kind, **settings):
    def lists():
        made = kind(num_threads=1, **settings)
        with driver.fitted():
            made.fit(matrix, show_progress=False)
        users = data.test_users
        items, _ = made.recommend(users, matrix[users], N=K, filter_already_liked_items=True)
        for user, row in zip(users, items, strict=True):
            seen = set(matrix[user].indices.tolist())  # item-item models fill up with seen items of score 0
            yield data.user_ids[user], [data.item_ids[i] for i in row if i >= 0 and i not in seen]

    return lists


driver.run(
    {
        "ALS": model(AlternatingLeastSquares, random_state=0),
        "BPR": model(BayesianPersonalizedRanking, random_state=0),
        "LMF": model(LogisticMatrixFactorization, random_state=0),
        "cosine": model(CosineRecommender),
        "TF-IDF": model(TFIDFRecommender),
        "BM25": model(BM25Recommender),
    }
)
