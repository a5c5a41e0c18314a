"""Data of a shop with text ids: write the files, train a model and recommend items, with mmssl_trainer in Python."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mmssl_trainer import configure, evaluate, fit, load, load_data, recommend, save

random = np.random.default_rng(0)
n_users, n_items = 300, 200
taste_of_users, taste_of_items = random.standard_normal((n_users, 4)), random.standard_normal((n_items, 4))
score = taste_of_users @ taste_of_items.T + random.gumbel(size=(n_users, n_items))
bought = np.argsort(-score, axis=1)[:, :10]
user_ids = np.array([f"customer-{number:04d}" for number in range(n_users)])
item_ids = np.array([f"B{number * 7919 % 100_000:05d}" for number in range(n_items)])

with tempfile.TemporaryDirectory() as folder:
    shop = Path(folder) / "shop"
    shop.mkdir()
    pq.write_table(
        pa.table({"user": np.repeat(user_ids, 10), "item": item_ids[bought.ravel()]}), shop / "interactions.parquet"
    )
    # One row of features per item. The order does not matter, because the file contains the ids.
    order = random.permutation(n_items)
    features = (taste_of_items + 0.5 * random.standard_normal((n_items, 4))).astype(np.float32)
    pq.write_table(pa.table({"item": item_ids[order], "image": list(features[order])}), shop / "image_feat.parquet")

    data = load_data(shop)
    model = fit(data, configure({"train.epochs": 8, "train.batch": 256, "model.dim": 16}))
    metrics = evaluate(model, ks=[20])
    save(model, Path(folder) / "shop.safetensors")
    lists = recommend(load(Path(folder) / "shop.safetensors"), users=["customer-0007"], k=5)

print(f"Recall@20 {metrics['recall@20']:.3f} over {metrics['users']} users; chance is about {20 / n_items:.2f}")
print("for customer-0007:", ", ".join(lists.item))
assert metrics["recall@20"] > 2 * 20 / n_items
