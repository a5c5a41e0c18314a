"""Merlin Models: matrix factorisation with negatives from the batch.

It has no default for the dimension, the batch and the number of epochs, which are 64, 1024 and 20 here. The time
contains the tracing of TensorFlow's graph.
"""

import os

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
import numpy as np
from protocol import Driver, K

driver = Driver("merlin-models", "merlin-core", "tensorflow-cpu", "numpy")

import merlin.models.tf as mm  # noqa: E402
import pandas as pd  # noqa: E402
import tensorflow as tf  # noqa: E402
from merlin.io import Dataset  # noqa: E402
from merlin.schema import ColumnSchema, Schema, Tags  # noqa: E402

data = driver.data


def column(name, count, *tags):
    domain = {"domain": {"min": 0, "max": count - 1, "name": name}}
    return ColumnSchema(name, tags=[*tags, Tags.CATEGORICAL], dtype="int32", properties=domain)


schema = Schema(
    [
        column("user", len(data.user_ids), Tags.USER_ID, Tags.USER),
        column("item", len(data.item_ids), Tags.ITEM_ID, Tags.ITEM),
    ]
)


def table(**columns):
    frame = pd.DataFrame({name: np.asarray(values, np.int32) for name, values in columns.items()})
    return Dataset(frame, schema=schema.select_by_name(list(columns)))


def factorisation():
    tf.keras.utils.set_random_seed(0)
    made = mm.MatrixFactorizationModelV2(schema, dim=64)
    made.compile(optimizer="adam", run_eagerly=False)
    order = np.random.default_rng(0).permutation(len(data.users))
    with driver.fitted():
        made.fit(table(user=data.users[order], item=data.items[order]), batch_size=1024, epochs=20, verbose=0)
    sides = [
        made.query_embeddings(table(user=np.arange(len(data.user_ids))), batch_size=1024, index=Tags.USER_ID),
        made.candidate_embeddings(table(item=np.arange(len(data.item_ids))), batch_size=1024, index=Tags.ITEM_ID),
    ]
    users, items = (side.compute().sort_index().to_numpy(np.float32) for side in sides)
    matrix = data.matrix()
    for user in data.test_users.tolist():
        scores = items @ users[user]
        scores[matrix[user].indices] = -np.inf
        yield data.user_ids[user], data.item_ids[np.argsort(-scores, kind="stable")[:K]]


driver.run({"MF": factorisation})
