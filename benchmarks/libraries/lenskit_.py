"""LensKit: item-kNN and ALS for implicit feedback, biased MF of the ratings, FlexMF, and EASE."""

from protocol import Driver, K

driver = Driver("lenskit")

from lenskit import recommend  # noqa: E402
from lenskit.als import BiasedMFScorer, ImplicitMFScorer  # noqa: E402
from lenskit.data import from_interactions_df  # noqa: E402
from lenskit.knn import ItemKNNScorer  # noqa: E402
from lenskit.pipeline import topn_pipeline  # noqa: E402

data = driver.data
implicit = from_interactions_df(data.frame("user_id", "item_id"))
rated = from_interactions_df(data.frame("user_id", "item_id", rating=data.ratings))


def model(kind, dataset=implicit, **settings):
    def lists():
        pipeline = topn_pipeline(kind(**settings), n=K)
        with driver.fitted():
            pipeline.train(dataset)
        for user in data.user_ids[data.test_users].tolist():
            yield user, recommend(pipeline, user, K).ids()

    return lists


def ease(**settings):
    from lenskit.knn import EASEScorer

    return EASEScorer(**settings)


def flexmf(**settings):
    from lenskit.flexmf import FlexMFImplicitScorer

    return FlexMFImplicitScorer(**settings)


driver.run(
    {
        "item-kNN implicit": model(ItemKNNScorer, feedback="implicit"),
        "ALS implicit": model(ImplicitMFScorer),
        "biased MF": model(BiasedMFScorer, rated),
        "EASE": model(ease),
        "FlexMF implicit": model(flexmf),
    }
)
