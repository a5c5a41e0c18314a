"""RecPack: EASE, item-kNN, SVD and popularity."""

import numpy as np
from protocol import Driver, K

driver = Driver("recpack")

from recpack import algorithms  # noqa: E402

data = driver.data
matrix = data.matrix()


def model(name, **settings):
    def lists():
        made = getattr(algorithms, name)(**settings)
        with driver.fitted():
            made.fit(matrix)
        scores = made.predict(matrix).tolil()
        for user in data.test_users:
            row = np.asarray(scores[user].todense()).ravel()
            row[matrix[user].indices] = -np.inf
            best = np.argsort(-row, kind="stable")[:K]
            yield data.user_ids[user], [data.item_ids[i] for i in best if np.isfinite(row[i]) and row[i] != 0]

    return lists


driver.run({name: model(name) for name in ("Popularity", "ItemKNN", "SVD", "EASE")})
