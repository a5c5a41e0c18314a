"""Cornac: MF, BPR, WMF, EASE, item-kNN, and VBPR with the features of titles and genres."""

import numpy as np
from protocol import Driver, K

driver = Driver("cornac")

import cornac  # noqa: E402
from cornac.data import FeatureModality  # noqa: E402

data = driver.data
pairs = [(int(u), int(i), 1.0) for u, i in zip(data.user_ids[data.users], data.item_ids[data.items], strict=True)]
train = cornac.data.Dataset.from_uir(pairs, seed=0)


def model(kind, features=False, **settings):
    def lists():
        made = kind(**settings)
        if features:
            vectors = np.hstack([data.features("text"), data.features("genre")])
            ids = [int(item) for item in data.item_ids]
            modality = FeatureModality(features=vectors, ids=ids, normalized=False)
            modality.build(id_map=train.iid_map)
            train.add_modalities(item_image=modality, item_feature=modality)
        with driver.fitted():
            made.fit(train)
        for user in data.user_ids[data.test_users].tolist():
            yield user, made.recommend(user, k=K, remove_seen=True, train_set=train)

    return lists


driver.run(
    {
        "MF": model(cornac.models.MF, seed=0, num_threads=1),
        "BPR": model(cornac.models.BPR, seed=0, num_threads=1),
        "WMF": model(cornac.models.WMF, seed=0, verbose=False),
        "EASE": model(cornac.models.EASE, verbose=False),
        "item-kNN": model(cornac.models.ItemKNN, verbose=False, num_threads=1),
        "VBPR": model(cornac.models.VBPR, features=True, seed=0, verbose=False),
    }
)
