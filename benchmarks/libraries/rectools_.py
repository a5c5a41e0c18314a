"""RecTools: its own EASE, SVD and popularity, and implicit's item-kNN and ALS through its wrappers."""

from protocol import Driver, K

driver = Driver("rectools", "implicit")

from implicit.als import AlternatingLeastSquares  # noqa: E402
from implicit.nearest_neighbours import TFIDFRecommender  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import (  # noqa: E402
    EASEModel,
    ImplicitALSWrapperModel,
    ImplicitItemKNNWrapperModel,
    PopularModel,
    PureSVDModel,
)

data = driver.data
train = Dataset.construct(
    data.frame(Columns.User, Columns.Item).assign(**{Columns.Weight: 1.0, Columns.Datetime: "2020-01-01"})
)


def model(make):
    def lists():
        made = make()
        with driver.fitted():
            made.fit(train)
        users = data.user_ids[data.test_users]
        found = made.recommend(users=users, dataset=train, k=K, filter_viewed=True)
        for user, rows in found.groupby(Columns.User, sort=False):
            yield user, rows.sort_values(Columns.Rank)[Columns.Item].tolist()

    return lists


driver.run(
    {
        "popular": model(PopularModel),
        "SVD": model(PureSVDModel),
        "item-kNN TF-IDF": model(lambda: ImplicitItemKNNWrapperModel(TFIDFRecommender(num_threads=1))),
        "ALS": model(lambda: ImplicitALSWrapperModel(AlternatingLeastSquares(num_threads=1, random_state=0))),
        "EASE": model(EASEModel),
    }
)
