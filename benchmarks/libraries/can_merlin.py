"""What Merlin can do, that is merlin-models, merlin-core and NVTabular: see checks.py."""

import os
import tempfile
from pathlib import Path

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
import numpy as np
import pandas as pd
from checks import Checks
from protocol import Driver

driver = Driver("merlin-models", "merlin-core", "nvtabular", "tensorflow-cpu", "numpy")
checks = Checks("merlin", driver.versions["merlin-models"])

import merlin.models.tf as mm  # noqa: E402
import nvtabular as nvt  # noqa: E402
from merlin.io import Dataset  # noqa: E402
from merlin.schema import Tags  # noqa: E402

UNKNOWN = 2  # what Categorify makes of ids that it has not seen
data = driver.data
folder = Path(tempfile.mkdtemp())
os.chdir(folder)  # NVTabular writes the categories to the current folder
columns = ["user", "item", "rating"]
table = pd.read_parquet(data.folder / "interactions.parquet")[columns]
titles = pd.read_parquet(data.folder / "items.parquet")["item"].to_numpy()
genre = np.load(data.folder / "genre_feat.npy").astype(np.float32)[:, :4]
wide = pd.DataFrame({"item": titles, **{f"g{n}": genre[:, n] for n in range(4)}})
table = table.merge(wide, on="item").head(8192)
table.to_parquet(folder / "films.parquet")


def through(*outputs, frame=None):
    """The table after a workflow of NVTabular."""
    workflow, found = nvt.Workflow(sum(outputs[1:], outputs[0])), Dataset(table if frame is None else frame)
    return workflow.fit_transform(found)


def ids(names=("user", "item"), **settings):
    first = [names[0]] >> nvt.ops.Categorify(**settings) >> nvt.ops.TagAsUserID()
    return first, [names[1]] >> nvt.ops.Categorify(**settings) >> nvt.ops.TagAsItemID()


checks.searched("features from raw texts", r"SentenceTransformer|TfidfVectorizer|CountVectorizer")
checks.searched("features from raw pictures")
checks.searched("split by time", r"train_test_split|split_by_time|temporal_split|time_split")


@checks.can("minimum rating", "nvtabular.ops.Filter(f=lambda df: df[df['rating'] >= 4])")
def _():
    kept = through(columns >> nvt.ops.Filter(f=lambda df: df[df["rating"] >= 4])).compute()
    assert len(kept) == (table["rating"] >= 4).sum()
    return f"{len(kept)} pairs"


@checks.can("k-core", "nvtabular.ops.Categorify(freq_threshold=10)", "rare ids become one category, once")
def _():
    found = through(*ids(freq_threshold=10)).compute()
    assert found["item"].nunique() < table["item"].nunique()


@checks.can("own column names", "tags in the schema: TagAsUserID, TagAsItemID")
def _():
    renamed = table.rename(columns={"user": "who", "item": "what"})
    schema = through(*ids(("who", "what")), frame=renamed).schema
    assert schema.select_by_tag(Tags.USER_ID).column_names == ["who"]


@checks.can("Parquet or SQL", "merlin.io.Dataset('films.parquet', engine='parquet')")
def _():
    assert Dataset(str(folder / "films.parquet"), engine="parquet").num_rows == len(table)


towers = {}


@checks.can("features of items in training", "TwoTowerModelV2(query, candidate), columns of the item in its tower")
def _():
    dense = [f"g{n}" for n in range(4)] >> nvt.ops.Normalize() >> nvt.ops.TagAsItemFeatures()
    found = through(*ids(), dense)
    users, items = (found.schema.select_by_tag(tag) for tag in (Tags.USER_ID, Tags.ITEM))
    query, candidate = (mm.Encoder(side, mm.MLPBlock([16], no_activation_last_layer=True)) for side in (users, items))
    model = mm.TwoTowerModelV2(query, candidate)
    model.compile(optimizer="adam", run_eagerly=False)
    model.fit(found, batch_size=1024, epochs=1, verbose=0)
    towers.update(model=model, found=found, items=items)
    return ", ".join(items.column_names)


@checks.exists("items without features", "nvtabular.ops.FillMissing(add_binary_cols=True)", "a constant and a flag")
def _():
    assert nvt.ops.FillMissing


@checks.can(
    "new items by features, ranked beside the others",
    "candidate_embeddings(items) of a two-tower model",
    "its tower reads an id, too: that of all unknown ones",
)
def _():
    schema = towers["items"]
    made = []
    for value in (0.1, 0.9):
        frame = pd.DataFrame({name: [value] for name in schema.column_names} | {"item": [UNKNOWN]})
        found = towers["model"].candidate_embeddings(Dataset(frame, schema=schema), batch_size=1, index=Tags.ITEM_ID)
        made.append(found.compute().to_numpy())
    assert not np.allclose(*made)


checks.say(
    "new users by history, without training",
    "partly",
    "read",
    "a list column of items in the user's tower",
    "training must have such a column; there is no call that makes it from a history",
)
checks.searched("similar items", r"similar_items|most_similar|item_to_item")
checks.none("exclude what was bought since", "only the adaptor of implicit has an argument, for the training pairs")


@checks.can("candidates or filters", "to_top_k_encoder(candidates, k=)", "the candidates are those of all users")
def _():
    frame = towers["found"].compute().drop_duplicates("item").head(50)
    candidates = Dataset(frame, schema=towers["found"].schema.select_by_tag(Tags.ITEM))
    made = towers["model"].to_top_k_encoder(candidates, k=5, batch_size=50)
    assert made is not None


checks.searched("diversity")
checks.say("warm start on new data", "partly", "read", "model.fit(new)", "the categories of NVTabular are fixed")


@checks.can("export of embeddings", "query_embeddings(users, index=), candidate_embeddings(items, index=)")
def _():
    found = towers["model"].query_embeddings(towers["found"], batch_size=1024, index=Tags.USER_ID).compute()
    return str(found.shape)


checks.searched("approximate index")
checks.searched("ONNX or torch.export", detail="model.save writes a SavedModel of TensorFlow")
checks.say("HTTP service", "partly", "read", "merlin-systems exports to Triton", "a package of its own, not run")


@checks.exists("metrics beyond accuracy", "metrics.evaluation: ItemCoverageAt, PopularityBiasAt, NoveltyAt")
def _():
    from merlin.models.tf.metrics.evaluation import ItemCoverageAt, NoveltyAt, PopularityBiasAt  # noqa: F401


checks.searched("confidence intervals")
checks.searched("paired tests", r"wilcoxon|ttest_rel|significance_test")
checks.searched("multi-modal systems", r"multi.?modal|visual feature|vbpr")


@checks.exists("sequence models", "tf.transformers: GPT2Block, XLNetBlock, BertBlock")
def _():
    from merlin.models.tf.transformers import block

    assert block.GPT2Block and block.XLNetBlock and block.BertBlock


@checks.exists("rating prediction", "RegressionOutput")
def _():
    assert mm.RegressionOutput


checks.searched("hyper-parameter search", r"optuna|hyperopt|ray\.tune")
checks.say("training on a GPU", "partly", "read", "TensorFlow; cuDF for the data", "not run: no GPU here")
checks.end()
