"""What MMRec can do: see checks.py. MMREC is the folder of a checkout, MINILM a folder with a model of
sentence-transformers.

Its sources are copied to a temporary folder, because it writes to the current one. It is a repository of a trainer for
one data set at a time: what it does with raw data is in notebooks (preprocessing/), whose cells run here on the films
without changes, apart from those that enter a folder of their author.
"""

import array
import contextlib
import inspect
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from protocol import Driver

driver = Driver("torch", "numpy", "scipy", "pandas")
torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp())
shutil.copytree(Path(os.environ["MMREC"]) / "src", folder / "src")
shutil.copytree(Path(os.environ["MMREC"]) / "preprocessing", folder / "preprocessing")
sys.path[:0] = [str(folder), str(folder / "src")]
minilm = Path(os.environ["MINILM"]).resolve()
data, film_folder = driver.data, driver.data.folder.resolve()
os.chdir(folder / "src")  # its configuration is read from the current folder
from checks import Checks  # noqa: E402

checks = Checks("src", "repository")
for_pictures = [f"torchvision{name}" for name in ("", ".transforms", ".transforms.functional")]
sys.modules.update({name: mock.MagicMock() for name in for_pictures})  # for pictures, which no model reads
from utils.dataset import RecDataset  # noqa: E402

for name in for_pictures:
    del sys.modules[name]
from common.trainer import Trainer  # noqa: E402
from utils.configurator import Config  # noqa: E402
from utils.dataloader import EvalDataLoader, TrainDataLoader  # noqa: E402
from utils.quick_start import quick_start  # noqa: E402
from utils.utils import get_model, init_seed  # noqa: E402

USERS, WIDTH = 60, 16  # the first users, and the columns of their films' features that are kept
chosen = data.users < USERS
films = np.unique(data.items[chosen])
pairs = [
    (user, int(np.searchsorted(films, item)), 0)
    for user, item in zip(data.users[chosen].tolist(), data.items[chosen].tolist(), strict=True)
]
held_out = (data.val_users < USERS) & np.isin(data.val_items, films)
for place, (user, item) in enumerate(zip(data.val_users[held_out], data.val_items[held_out], strict=True)):
    pairs.append((int(user), int(np.searchsorted(films, item)), 1 + place % 2))
features = {name: data.features(name)[films, :WIDTH] for name in ("genre", "text")}
N_USERS, N_FILMS = USERS, len(films)


def written(rows=pairs, columns=("userID", "itemID", "x_label"), sep="\t", image=None, text=None):
    """A folder in its layout. Returns the folder of data sets; the data set is called baby."""
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "baby").mkdir()
    pd.DataFrame(rows, columns=list(columns)).to_csv(place / "baby/baby.inter", sep=sep, index=False)
    np.save(place / "baby/image_feat.npy", features["genre"] if image is None else image)
    np.save(place / "baby/text_feat.npy", features["text"] if text is None else text)
    return f"{place}/"


def loaded(model="LightGCN", path=None, **settings):
    """(configuration, loaders of train, validation and test, model) with the first value of each list."""
    base = {"data_path": path or written(), "use_gpu": False, "epochs": 1, "train_batch_size": 512}
    config = Config(model, "baby", base | settings)
    for key in {*config["hyper_parameters"]}:
        config[key] = config[key][0] if isinstance(config[key], list) else config[key]
    init_seed(config["seed"])
    dataset = RecDataset(config)
    str(dataset)  # counts the interactions, which its loaders need
    parts = dataset.split()
    for part in parts:
        str(part)
    train = TrainDataLoader(config, parts[0], batch_size=config["train_batch_size"], shuffle=True)
    held = [EvalDataLoader(config, part, additional_dataset=parts[0], batch_size=4096) for part in parts[1:]]
    train.pretrain_setup()
    return config, (train, *held), get_model(config["model"])(config, train)


def fitted(model="LightGCN", path=None, **settings):
    config, (train, valid, test), made = loaded(model, path, **settings)
    trainer = Trainer(config, made)
    trainer.fit(train, valid, test, verbose=False)
    made.eval()
    return trainer, made, (train, valid, test)


def refused(function, kind, message):
    """The first words of the error of a call, which must be of this kind and contain the message."""
    try:
        function()
    except kind as error:
        assert message in str(error), error
        return f"{type(error).__name__}: {str(error)[:70]}"
    raise AssertionError("no error")


def notebook(name, cwd, last=None, only="", **variables):
    """Run the cells of a notebook that contain `only`, but those that enter the author's folder. Returns its variables.

    last: end of the cells, as in a slice. variables: those of cells before.
    """
    cells = json.loads((folder / "preprocessing" / name).read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][:last]
    before = os.getcwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for code in codes:
                if only in code and "os.chdir" not in code:
                    exec(code, variables)
    finally:
        os.chdir(before)
    return variables


raw = Path(tempfile.mkdtemp(dir=folder))  # the files of Amazon's products that the notebooks read, made of films
table = pd.read_parquet(film_folder / "interactions.parquet")
table = table[table["user"] <= 120]
table[["user", "item", "rating", "timestamp"]].to_csv(
    raw / "ratings_Sports_and_Outdoors.csv", header=False, index=False
)
split = {}


@checks.can("split by time", "preprocessing/0rating2inter.ipynb", "cells of a notebook with file names in them; 8:1:1")
def _():
    split.update(notebook("0rating2inter.ipynb", raw))
    made = pd.read_csv(raw / "sports14-indexed.inter", sep="\t")
    times = made.groupby("x_label")["timestamp"].agg(["min", "max"])
    assert times["max"][0] < times["min"][1] and times["max"][1] < times["min"][2], times


@checks.can("k-core", "preprocessing/0rating2inter.ipynb", "a cell of a notebook, k = 5 in its code")
def _():
    made = pd.read_csv(raw / "sports14-indexed.inter", sep="\t")
    assert made.groupby("userID").size().min() >= 5 and made.groupby("itemID").size().min() >= 5
    assert len(made) < len(table)


def catalogue():
    """The catalogue of films as the next notebooks read it, the last film without a picture."""
    names = pd.read_parquet(film_folder / "items.parquet").set_index("item")
    mapping = pd.read_csv(raw / "i_id_mapping.csv", sep="\t")
    found = names.loc[mapping["asin"]]
    asin = [f"{item:010}" for item in mapping["asin"]]
    meta = {"itemID": mapping["itemID"], "asin": asin, "title": found["title"].to_numpy(), "brand": None}
    categories = [str([genres.split("|")]) for genres in found["genres"].fillna("")]
    pd.DataFrame(meta | {"categories": categories, "description": None}).to_csv(raw / "meta-sports14.csv", index=False)
    with (raw / "image_features_Sports_and_Outdoors.b").open("wb") as stream:
        for place, name in enumerate(asin[:-1]):
            stream.write(name.encode() + array.array("f", [place % 7] * 4096).tobytes())
    link = raw / "all-MiniLM-L6-v2"
    if not link.exists():
        link.symlink_to(minilm)
    return mapping


@checks.can("features from raw texts", "preprocessing/3feat-encoder.ipynb", "cells of a notebook for one data set")
def _():
    catalogue()
    found = notebook("3feat-encoder.ipynb", raw, last=-3)
    vectors, sentences = np.load(raw / "text_feat.npy"), found["sentences"]
    assert vectors.shape == (len(sentences), 384), vectors.shape
    np.testing.assert_allclose(vectors[:3], found["model"].encode(sentences[:3]), atol=1e-5)


checks.searched("features from raw pictures", r"torchvision\.models|timm\.", "the notebook reads vectors of Amazon's")


@checks.can(
    "items without features",
    "preprocessing/3feat-encoder.ipynb",
    "the mean of the other pictures; a row of NaN ends it",
)
def _():
    mapping = catalogue()
    names = pd.read_csv(raw / "meta-sports14.csv", dtype={"asin": str})
    notebook("3feat-encoder.ipynb", raw, only="readImageFeatures", df=names, os=os, np=np, file_path="./")
    pictures = np.load(raw / "image_feat.npy")
    assert len(pictures) == len(mapping)
    np.testing.assert_allclose(pictures[-1], pictures[:-1].mean(0), rtol=1e-6)
    missing = features["genre"].copy()
    missing[0] = np.nan
    trainer, *_ = fitted("VBPR", written(image=missing))
    assert not trainer.train_loss_dict or not np.isfinite(sum(trainer.train_loss_dict.values()))


@checks.cannot("minimum rating", "a column of ratings beside userID, itemID, x_label")
def _():
    rows = [(*row, 1 + place % 5) for place, row in enumerate(pairs)]
    path = written(rows, ("userID", "itemID", "x_label", "rating"))
    _, (train, *_), _ = loaded(path=path)
    assert len(train.dataset) == sum(row[2] == 0 for row in pairs)
    return f"{len(train.dataset)} pairs of all ratings; the column is not read"


@checks.can("own column names", "USER_ID_FIELD, ITEM_ID_FIELD, inter_splitting_label, field_separator")
def _():
    names = {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "what", "inter_splitting_label": "part", "field_separator": ";"}
    trainer, _, _ = fitted(path=written(columns=("who", "what", "part"), sep=";"), **names)
    assert np.isfinite(trainer.train_loss_dict[0])
    texts = [(f"u{user}", item, part) for user, item, part in pairs]
    refused(lambda: loaded(path=written(texts)), ValueError, "u")
    return 'the ids must be integers from 0 on; "u0" is refused'


@checks.cannot("Parquet or SQL", "inter_file_name: films.parquet")
def _():
    path = written()
    pd.DataFrame(pairs, columns=["userID", "itemID", "x_label"]).to_parquet(f"{path}baby/films.parquet")
    return refused(lambda: loaded(path=path, inter_file_name="films.parquet"), UnicodeDecodeError, "utf-8")


@checks.can("features of items in training", "image_feat.npy and text_feat.npy, rows by item index")
def _():
    _, made, _ = fitted("VBPR")
    assert made.item_raw_features.shape == (N_FILMS, 2 * WIDTH)
    return "VBPR with features of titles and genres"


@checks.can(
    "new items by features, ranked beside the others",
    "VBPR.full_sort_predict, an item without training pairs",
    "its features must be there at training, and a random id embedding is added; no call for later items",
)
def _():
    rows = [*pairs, (0, N_FILMS, 2)]
    more = {name: np.concatenate([values, values[:1]]) for name, values in features.items()}
    _, made, _ = fitted("VBPR", written(rows, image=more["genre"], text=more["text"]))
    scores = made.full_sort_predict([torch.arange(USERS)])
    assert scores.shape == (USERS, N_FILMS + 1)
    id_part = made.u_embedding[:, :64] @ (made.i_embedding[N_FILMS] - made.i_embedding[0])
    torch.testing.assert_close(scores[:, N_FILMS] - scores[:, 0], id_part, atol=1e-5, rtol=1e-4)
    assert id_part.abs().max() > 1e-4
    refused(
        lambda: made.full_sort_predict([torch.arange(USERS), torch.zeros(1, WIDTH)])[:, N_FILMS + 1], IndexError, ""
    )


trainer, model, loaders = fitted()


@checks.cannot("new users by history, without training", "full_sort_predict([user])")
def _():
    error = refused(lambda: model.full_sort_predict([torch.tensor([N_USERS])]), IndexError, "out of")
    return f"indices of training users only ({error})"


@checks.cannot("similar items", "full_sort_predict([user])")
def _():
    methods = {name for name, _ in inspect.getmembers(type(model), inspect.isfunction)} - set(dir(torch.nn.Module))
    assert not [name for name in methods if "simil" in name or "neighb" in name], methods
    public = {
        "forward",
        "calculate_loss",
        "predict",
        "full_sort_predict",
        "pre_epoch_processing",
        "post_epoch_processing",
    }
    assert public >= {name for name in methods if not name.startswith(("_", "get_"))}, methods
    return "scores of items for users are all that a model returns"


@checks.cannot("exclude what was bought since", "Trainer.evaluate(loader)")
def _():
    lists = []
    with mock.patch.object(trainer.evaluator, "evaluate", lambda batches, *_, **__: lists.extend(batches)):
        trainer.evaluate(loaders[2])
    lists = torch.cat(lists)
    training = {(user, item) for user, item, part in pairs if part == 0}
    validation = {(user, item) for user, item, part in pairs if part == 1}
    users = loaders[2].get_eval_users()
    found = {(int(user), int(item)) for user, row in zip(users, lists, strict=True) for item in row}
    assert not found & training and found & validation
    return "leaves out the training pairs; those of validation are in the lists, and no argument removes them"


@checks.cannot("candidates or filters", "full_sort_predict([users])")
def _():
    scores = model.full_sort_predict([torch.arange(5)])
    assert scores.shape == (5, N_FILMS)
    assert list(inspect.signature(type(model).full_sort_predict).parameters) == ["self", "interaction"]
    assert list(inspect.signature(Trainer.evaluate).parameters) == ["self", "eval_data", "is_test", "idx"]
    return "scores of all items, and no argument for candidates"


checks.searched("diversity", r"\bmmr\b|maximal.marginal|diversity")


@checks.cannot("warm start on new data", "load_state_dict of a model for one more user")
def _():
    _, _, larger = loaded(path=written([*pairs, (N_USERS, 0, 0)]))
    error = refused(lambda: larger.load_state_dict(model.state_dict()), RuntimeError, "size mismatch")
    return f"no call maps ids ({error.partition(':')[0]}: size mismatch)"


@checks.can(
    "export of embeddings",
    "model.state_dict()",
    "in a training loop of one's own; quick_start(save_model=True) keeps none",
)
def _():
    logging.disable()
    before = {path for path in folder.rglob("*") if path.is_file()}
    path = written()
    assert quick_start("LightGCN", "baby", {"data_path": path, "use_gpu": False, "epochs": 1}, save_model=True) is None
    after = {path for path in folder.rglob("*") if path.is_file()} - before
    assert not {".pt", ".pth", ".bin", ".ckpt", ".safetensors"} & {path.suffix for path in after}, after
    logging.disable(logging.NOTSET)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert (N_USERS, 64) in shapes.values() and (N_FILMS, 64) in shapes.values(), shapes


checks.searched("approximate index")
checks.searched("ONNX or torch.export")
checks.searched("HTTP service")


@checks.cannot("metrics beyond accuracy", "metrics: [Coverage]")
def _():
    return refused(lambda: fitted(metrics=["Coverage"]), ValueError, "no user grouped topk metric named Coverage")


@checks.cannot("confidence intervals", "Trainer.evaluate(loader)")
def _():
    found = trainer.evaluate(loaders[2])
    assert found and all(np.ndim(value) == 0 for value in found.values()), found
    return f"one number a metric, such as recall@20 {found['recall@20']}"


@checks.cannot("paired tests", "Trainer.fit(…), Trainer.evaluate(loader)")
def _():
    again, *_ = fitted()
    for value in (*trainer.fit(*loaders, verbose=False)[1:], again.evaluate(loaders[2])):
        assert all(isinstance(each, float) for each in value.values()), value
    return "means over the users; no values by user that could be paired"


@checks.can("multi-modal systems", "one epoch of every model of src/models")
def _():
    ran, failed = [], {}
    names = {path.stem.lower(): path.stem for path in (folder / "src/configs/model").glob("*.yaml")}
    for path in sorted((folder / "src/models").glob("*.py")):
        if path.stem == "__init__":
            continue
        try:
            fitted(names[path.stem])
            ran.append(names[path.stem])
        except Exception as error:
            failed[path.stem] = f"{type(error).__name__} {str(error)[:80]}"
    print(f"# not run: {failed}")
    assert ran, failed
    return f"{len(ran)} of {len(ran) + len(failed)} ran: {', '.join(ran)}"


checks.searched("sequence models", r"sasrec|gru4rec|sequential recommend")


@checks.cannot("rating prediction", "metrics: [RMSE]")
def _():
    return refused(lambda: fitted(metrics=["RMSE"]), ValueError, "no user grouped topk metric named RMSE")


@checks.can("hyper-parameter search", "quick_start, lists of values in the configuration")
def _():
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    lists = {"n_layers": [1, 2], "reg_weight": [0.01, 0.1]}
    quick_start("LightGCN", "baby", {"data_path": written(), "use_gpu": False, "epochs": 1} | lists)
    logging.getLogger().removeHandler(handler)
    tried = [line for line in lines if line.startswith("=========") and "Parameters:" in line]
    assert "Parameters:" in lines[-1], lines[-1:]
    assert len(tried) == 4, tried
    return f"a grid, one run after the other; {len(tried)} runs, the best is in the log"


checks.say("training on a GPU", "partly", "read", "use_gpu, gpu_id", "not run: no GPU here")
checks.end()
