"""What mmssl_fast can do: see checks.py."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("mmssl_fast", "torch")
checks = Checks("mmssl_trainer", driver.versions["mmssl_fast"])

import mmssl_trainer as mt  # noqa: E402

source = driver.data.folder
folder = Path(tempfile.mkdtemp())
data = mt.load_data(source)
settings = {"model.system": "vbpr", "train.epochs": 1, "train.threads": 1}
model = mt.fit(data, mt.configure(settings))
light = mt.fit(data, mt.configure({"model.system": "lightgcn", "train.epochs": 2, "train.threads": 1}))
user = int(driver.data.user_ids[driver.data.test_users[0]])
history = driver.data.item_ids[driver.data.items[driver.data.users == driver.data.test_users[0]]].tolist()
features = {name: values[:3] for name, values in data.features.items()}


checks.tested(
    "features from raw texts",
    "mmssl-fast features text, make_features('text', …)",
    "tests/trainer/features/test_features_text.py",
)


checks.tested(
    "features from raw pictures",
    "mmssl-fast features image, make_features('image', …)",
    "tests/trainer/features/test_features_image.py",
)


@checks.can("split by time", "load_data(split='time')")
def _():
    table = pd.read_parquet(source / "interactions.parquet").drop(columns="split")
    (folder / "timed").mkdir()
    table.to_parquet(folder / "timed" / "interactions.parquet")
    return f"{mt.load_data(folder / 'timed', split='time').train.nnz} pairs for training"


@checks.can("minimum rating", "load_data(min_rating=4)")
def _():
    return f"{mt.load_data(folder / 'timed', min_rating=4).train.nnz} pairs for training"


@checks.can("k-core", "load_data(min_interactions=10)")
def _():
    loaded = mt.load_data(folder / "timed", min_interactions=10)
    whole = loaded.train + loaded.val + loaded.test
    assert np.asarray(whole.sum(0)).min() >= 10 and np.asarray(whole.sum(1)).min() >= 10


@checks.can("own column names", "load_data(user_column=, item_column=, …)")
def _():
    (folder / "named").mkdir()
    table = pd.read_parquet(source / "interactions.parquet").rename(columns={"user": "customer", "item": "sku"})
    table.to_csv(folder / "named" / "interactions.csv", index=False)
    mt.load_data(folder / "named", user_column="customer", item_column="sku")


@checks.can("Parquet or SQL", "load_data(interactions='shop.duckdb', query='SELECT …'), folders of Parquet")
def _():
    import duckdb

    (folder / "sql").mkdir()
    with duckdb.connect(str(folder / "sql" / "shop.duckdb")) as base:
        base.execute(f"CREATE TABLE bought AS SELECT * FROM '{source / 'interactions.parquet'}'")
    mt.load_data(folder / "sql", interactions="shop.duckdb", query="SELECT user, item FROM bought")


@checks.can("features of items in training", "<modality>_feat files; systems mmssl, vbpr, …")
def _():
    return ", ".join(data.modalities)


checks.tested("items without features", "missing rows are masked", "tests/trainer/systems/test_missing_features.py")


@checks.can("new items by features, ranked beside the others", "recommend(new_items=(ids, features))")
def _():
    found = mt.recommend(model, [user], data.n_items, new_items=(["new 1", "new 2", "new 3"], features))
    assert {"new 1", "new 2", "new 3"} <= set(map(str, found.item))


@checks.can("new users by history, without training", "recommend(histories={user: items}), fold_in")
def _():
    new = mt.recommend(light, k=20, histories={"new": history}).item
    known = mt.recommend(light, [user], 20).item
    return f"{len(set(new) & set(known))} of 20 items as for the trained user"


@checks.can("similar items", "similar(model, items)")
def _():
    assert len(mt.similar(light, history[:1], 5).similar) == 5


@checks.can("exclude what was bought since", "recommend(excluded=pairs)")
def _():
    first = mt.recommend(light, [user], 5).item.tolist()
    assert first[0] not in mt.recommend(light, [user], 5, excluded=[(user, first[0])]).item


@checks.can("candidates or filters", "recommend(candidates=), --filter column=value")
def _():
    allowed = driver.data.item_ids[:300].tolist()
    assert set(mt.recommend(light, [user], 5, candidates=allowed).item.tolist()) <= set(allowed)


@checks.can("diversity", "recommend(diversity=0.5)")
def _():
    assert len(mt.recommend(light, [user], 5, diversity=0.5).item) == 5


checks.tested("warm start on new data", "train --from RUN", "tests/trainer/runs/test_warm_start.py")


@checks.can("export of embeddings", "export(model, path, 'parquet'), 'safetensors', 'npy'")
def _():
    mt.export(light, folder / "parquet", "parquet")
    return "'parquet' was run"


@checks.can("approximate index", "export(model, path, 'faiss'), 'usearch', 'hnswlib'")
def _():
    mt.export(light, folder / "faiss", "faiss")
    return "'faiss' was run"


@checks.can("ONNX or torch.export", "export(model, path, 'torch-export'), 'onnx'")
def _():
    mt.export(model, folder / "towers", "torch-export")
    return "'torch-export' was run"


checks.tested("HTTP service", "mmssl-fast serve RUN", "tests/serving")


@checks.can("metrics beyond accuracy", "beyond_accuracy(model)")
def _():
    return ", ".join(mt.beyond_accuracy(light, ks=[20]))


@checks.can("confidence intervals", "intervals(model)")
def _():
    low, high = mt.intervals(light, ks=[20])["recall@20"]
    return f"recall@20 from {low:.3f} to {high:.3f}"


@checks.can("paired tests", "compare(first, second)")
def _():
    return f"{len(mt.compare(model, light)[0])} metrics"


@checks.exists("multi-modal systems", "mmssl, vbpr, lightgcn_m, mmgcn, grcn, lattice, clcrec, mmgcl, slmrec")
def _():
    from mmssl_trainer.config.names import SYSTEMS

    return f"{len(SYSTEMS)} systems in all"


checks.searched("sequence models", r"sasrec|gru4rec|bert4rec")
checks.searched("rating prediction", r"\brmse\b|predict_rating")


checks.tested("hyper-parameter search", "mmssl-fast tune (Optuna)", "tests/trainer/study/test_tune.py")


@checks.exists("training on a GPU", "--device cuda", "the kernels were never run on a GPU")
def _():
    import mmssl_fast

    return str(mmssl_fast.backends())


checks.end()
