"""Small runs on the current ranks: their results, and how they are interrupted and resumed."""

from __future__ import annotations

import functools
import hashlib
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mmssl_trainer import configure
from mmssl_trainer.data import Dataset, synthetic
from mmssl_trainer.errors import Interrupted
from mmssl_trainer.ranking import breakdown, split_metrics
from mmssl_trainer.runs import recommend, saved_model
from mmssl_trainer.systems import inference
from mmssl_trainer.training import loop
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.progress import NullObserver

from mmssl_fast import distributed

RUNS = {
    "lightgcn": {"model.system": "lightgcn", "model.dim": 16, "train.epochs": 2, "train.batch": 310},
    "lightgcn_odd": {
        "model.system": "lightgcn",
        "model.dim": 7,
        "model.heads": 1,
        "model.layers": 3,
        "train.epochs": 2,
        "train.batch": 299,
        "train.sample_over": "users",
        "evaluate.batch": 37,
    },
    "mf": {"model.system": "mf", "model.dim": 9, "model.heads": 1, "train.epochs": 2, "train.validate_every": 2},
    "popularity": {"model.system": "popularity"},
}
SMALL = {"model.dim": 7, "model.heads": 1, "train.epochs": 2, "train.batch": 620, "optimiser.lr": 0.05}
# In float64: the ranks add the terms of the contrastive losses in another order, so that results agree up to rounding.
ROUNDED = {
    "sgl": SMALL | {"model.system": "sgl"},
    "ncl": SMALL | {"model.system": "ncl", "ncl.warm_up": 1, "ncl.clusters": 9, "ncl.prototype_weight": 0.1},
    "mmssl": SMALL
    | {"model.system": "mmssl", "model.dim": 8, "model.heads": 2, "model.hidden": [12, 6], "train.batch": 1240},
}
# In parts, with fewer anchors, and with all losses.
ROUNDED["mmssl_parts"] = ROUNDED["mmssl"] | {
    "train.microbatches": 3,
    "train.batch": 1210,
    "loss.anchors": 210,
    "loss.structural": True,
    "loss.lambda_features": 0.1,
}
ODD = "lightgcn_odd"
CONTRASTS = ["sgl", "ncl"]
GROUPED = [ODD, *CONTRASTS]  # interrupted in groups as well
IN_GROUPS = {2: {2: GROUPED}, 3: {3: []}, 4: {2: ["mmssl_parts", *CONTRASTS], 4: [ODD]}}  # {ranks: {groups: runs}}
INTERRUPTED = {"lightgcn_odd": 9, "mmssl": 3}  # and the steps of an epoch


@functools.cache
def data() -> Dataset:
    """Data whose numbers of users and items neither 2 nor 3 divides."""
    return synthetic(seed=0, n_users=451, n_items=301)


def configured(name: str):
    return configure((RUNS | ROUNDED)[name] | {"train.threads": 1})


def digest(fit, name: str, folder: Path) -> str | None:
    """The sha256 of the model file, which the first rank writes."""
    path = folder / f"{name}.safetensors"
    saved_model.save(saved_model.Model.of(fit, data(), configured(name)), path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if distributed.current().rank == 0 else None


@contextmanager
def precision(name: str):
    """float64 for the runs of ROUNDED."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if name in ROUNDED else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def whole_run(name: str, folder: Path) -> dict:
    dataset, config = data(), configured(name)
    with precision(name):
        fit = loop.fit(dataset, config)
    how = config.evaluate
    return {
        "test": split_metrics(fit.users, fit.items, dataset, "test", how.ks, True, how.batch),
        "breakdown": breakdown(fit.users, fit.items, dataset, "test", how.ks, batch=how.batch),
        "losses": [record["losses"] for record in fit.epochs],
        "val": [record.get("val") for record in fit.epochs],
        "best_epoch": fit.best_epoch,
        "model": digest(fit, name, folder),
    }


def own_features(folder: Path) -> bool:
    """Whether losses and model file of MMSSL stay the same if the features of the other ranks' items are wrong."""
    dataset, config = data(), configured("mmssl").changed("train", epochs=1)
    first, last = distributed.current().span(dataset.n_items)
    wrong = {name: np.full_like(values, 1e30) for name, values in dataset.features.items()}
    for name, values in dataset.features.items():
        wrong[name][first:last] = values[first:last]
    found = []
    with precision("mmssl"), mock.patch.object(inference, "ROWS", 1):  # a block of the scaling is then one item
        for features in (dataset.features, wrong):
            path = folder / f"{len(found)}-features.safetensors"
            fit = loop.fit(replace(dataset, features=features), config)
            saved_model.save(saved_model.Model.of(fit, replace(dataset, features=features), config), path)
            content = path.read_bytes() if distributed.current().rank == 0 else b""
            found.append((content, [record["losses"] for record in fit.epochs]))
    return found[0] == found[1]


def ranked(name: str, folder: Path, out: Path) -> dict[str, float]:
    """Metrics of a model read from its file, and recommendations for all users in `out`."""
    model = saved_model.load(folder / f"{name}.safetensors")
    ranks = distributed.current()
    chunks = recommend.recommend(model, k=20, exclude="all", batch=64)
    if ranks.size > 1:
        recommend.write_part(chunks, out)
    else:
        out.mkdir()
        recommend.write(chunks, out / "all.csv")
    return split_metrics(model.users, model.items, model.interactions, "val", (5,), batch=100)


class SignalAt(NullObserver):
    """A signal that only the last rank receives, in the middle of an epoch."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def stepped(self, epoch, step, losses):
        ranks = distributed.current()
        if (epoch, step) == (2, 1) and ranks.rank == ranks.size - 1:
            self.checkpoints.stop.received = signal.SIGTERM


def interrupted(name: str, run: Path) -> list:
    """A run that is interrupted and writes a checkpoint to `run`: (signal, message)."""
    run.mkdir(exist_ok=True)
    checkpoints = Checkpoints(run, data(), configured(name))
    try:
        with precision(name):
            loop.fit(data(), configured(name), SignalAt(checkpoints), checkpoints=checkpoints)
    except Interrupted as error:
        return [error.signal, str(error).replace(str(run), "RUN")]
    return [None, "went on"]


def resumed(name: str, run: Path, folder: Path) -> list:
    """A copy of an interrupted run, resumed until it ends: (notes about the checkpoint, digest of the model).

    The model is written to `folder`/resumed-`name`.
    """
    copy = folder / f"resumed-{name}"
    if distributed.current().rank == 0:
        shutil.copytree(run, copy)
    distributed.all_texts("copied", distributed.current())
    checkpoints = Checkpoints(copy, data(), configured(name))
    checkpoints.open()
    notes = checkpoints.notes()
    with precision(name):
        fit = loop.fit(data(), configured(name), checkpoints=checkpoints)
    return [notes, digest(fit, name, copy)]
