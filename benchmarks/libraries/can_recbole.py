"""What RecBole can do: see checks.py."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("recbole", "torch", "numpy")
checks = Checks("recbole", driver.versions["recbole"])

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

logging.disable()
data = driver.data
table = pd.read_parquet(data.folder / "interactions.parquet")
folder = Path(tempfile.mkdtemp())
os.chdir(folder)  # RecBole writes logs to the current folder


def built(model="BPR", **settings):
    place = folder / "films"
    place.mkdir(exist_ok=True)
    types = {"user": "token", "item": "token", "rating": "float", "timestamp": "float"}
    frame = table[list(types)].rename(columns={name: f"{name}:{kind}" for name, kind in types.items()})
    frame.to_csv(place / "films.inter", sep="\t", index=False)
    base = {
        "data_path": str(folder),
        "USER_ID_FIELD": "user",
        "ITEM_ID_FIELD": "item",
        "load_col": {"inter": ["user", "item", "rating", "timestamp"]},
        "checkpoint_dir": str(folder),
        "use_gpu": False,
        "show_progress": False,
        "epochs": 1,
        "state": "CRITICAL",
    }
    config = Config(model=model, dataset="films", config_dict=base | settings)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    return config, dataset


checks.searched("features from raw texts", r"sentence.transformers|AutoTokenizer|TfidfVectorizer")
checks.searched("features from raw pictures")


@checks.can("split by time", "eval_args: {order: TO, split: {RS: [8, 1, 1]}, group_by: none}")
def _():
    config, dataset = built(eval_args={"order": "TO", "split": {"RS": [8, 1, 1]}, "group_by": "none", "mode": "full"})
    parts = data_preparation(config, dataset)
    return f"{len(parts)} parts"


@checks.can("minimum rating", "val_interval: {rating: '[4,inf)'}")
def _():
    return f"{built(val_interval={'rating': '[4,inf)'})[1].inter_num} pairs"


@checks.can("k-core", "user_inter_num_interval: '[10,inf)', item_inter_num_interval: '[10,inf)'")
def _():
    _, dataset = built(user_inter_num_interval="[10,inf)", item_inter_num_interval="[10,inf)")
    frame = dataset.inter_feat
    counts = [pd.Series(np.asarray(frame[name])).value_counts() for name in ("user", "item")]
    assert all(count.min() >= 10 for count in counts)
    return f"{dataset.inter_num} pairs"


@checks.can("own column names", "USER_ID_FIELD, ITEM_ID_FIELD, …", "in its atomic files, whose header has types")
def _():
    assert built()[1].inter_num == len(table)


checks.searched("Parquet or SQL")


@checks.exists(
    "features of items in training",
    "columns of the .item file, models such as FM and DeepFM",
    "fields of click models, preloaded embeddings; no general recommender reads vectors of items",
)
def _():
    from recbole.model.context_aware_recommender import FM  # noqa: F401


checks.searched("items without features", r"missing feature|mask_feature")
checks.none(
    "new items by features, ranked beside the others",
    "full_sort_topk ranks the items of the data set; general models have an id embedding each",
)
checks.none("new users by history, without training", "full_sort_topk and full_sort_scores want users of the data set")
checks.searched("similar items", r"similar_items|most_similar|item_to_item")
checks.none("exclude what was bought since", "full_sort_topk leaves out the pairs of the data set; no further argument")
checks.none("candidates or filters", "full_sort_topk(uid_series, model, test_data, k, device): no candidates")
checks.searched("diversity")


@checks.exists("warm start on new data", "Trainer.resume_checkpoint(file)", "for the same data set; ids are not mapped")
def _():
    from recbole.trainer import Trainer

    assert Trainer.resume_checkpoint


@checks.can("export of embeddings", "torch.save checkpoint", "parameters by internal id; id2token maps them")
def _():
    config, dataset = built()
    train, valid, _ = data_preparation(config, dataset)
    made = get_model("BPR")(config, train._dataset).to("cpu")
    get_trainer(config["MODEL_TYPE"], "BPR")(config, made).fit(train, valid, saved=True, show_progress=False)
    return str(tuple(made.item_embedding.weight.shape))


checks.found("approximate index", r"faiss", "faiss in NCL, for its clustering", "no index of the items")


checks.searched("ONNX or torch.export")
checks.searched("HTTP service")


@checks.exists(
    "metrics beyond accuracy", "metrics: ItemCoverage, AveragePopularity, GiniIndex, ShannonEntropy, TailPercentage"
)
def _():
    from recbole.evaluator import metrics

    assert metrics.ItemCoverage and metrics.GiniIndex and metrics.TailPercentage


checks.none("confidence intervals", "grep finds the bootstrap of two sequence models only")
checks.searched("paired tests")
checks.searched("multi-modal systems")


@checks.exists("sequence models", "SASRec, BERT4Rec, GRU4Rec and others")
def _():
    from recbole.model import sequential_recommender

    return f"{len([n for n in dir(sequential_recommender) if n[0].isupper()])} of them"


@checks.exists(
    "rating prediction", "point-wise losses of click models; RMSE and MAE", "as a value metric of context-aware models"
)
def _():
    from recbole.evaluator import metrics

    assert metrics.RMSE


@checks.exists("hyper-parameter search", "trainer.HyperTuning")
def _():
    from recbole.trainer import HyperTuning  # noqa: F401


@checks.exists("training on a GPU", "use_gpu, run_recboles for several", "not run: no GPU here")
def _():
    from recbole.quick_start import run_recboles  # noqa: F401


checks.end()
