"""The public functions of mmssl_trainer: configure, fit, evaluate and recommend. The other names are re-exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .config import presets
from .config.load import load as _load_config
from .config.sections import Config as Config
from .data import Dataset as Dataset
from .errors import InputError as InputError
from .exports import export as export
from .inference.histories import fold_in as fold_in
from .inference.lists import for_request
from .inference.new_items import embed_items as embed_items
from .inference.similar import Similar as Similar
from .inference.similar import similar as similar
from .ranking import check_list_lengths, split_metrics
from .runs import recommend as _recommend
from .runs.complete import load_data as load_data
from .runs.recommend import Recommendations as Recommendations
from .runs.saved_model import Model as Model
from .runs.saved_model import load as load
from .runs.saved_model import save as save
from .study.compare import Comparison as Comparison
from .study.compare import compare as compare
from .training import loop
from .training.progress import Observer as Observer


def configure(
    settings: Mapping[str, Any] | None = None, *, preset: str | None = None, file: str | Path | None = None
) -> Config:
    """A configuration: the defaults, overridden by a preset, a TOML file and settings, in this order.

    settings: {"section.key": value}, with the keys of docs/configuration.md. preset: name of a bundled preset, or a
    TOML file. Raises InputError that names the key; for an unknown key it suggests the closest existing one.

    >>> configure({"model.system": "lightgcn", "train.epochs": 5}).train.epochs
    5
    """
    overrides = {name: (value, "settings") for name, value in (settings or {}).items()}
    return _load_config(file, overrides, None if preset is None else presets.find(preset))


def fit(dataset: Dataset, config: Config | None = None, observer: Observer | None = None) -> Model:
    """Train config.model.system on the dataset. Returns the model with the best Recall@20 on the validation split.

    observer: receives a call after every step and epoch. Nothing is written to disk; `mmssl-fast train` writes a run
    folder that can be resumed. Raises NonFiniteLoss, OutOfMemory, and InputError if the dataset does not suit the
    configuration.

    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> len(model.epochs)
    1
    """
    config = config or Config()
    return Model.of(loop.fit(dataset, config, observer), dataset, config)


def evaluate(
    model: Model, split: str = "test", ks: Sequence[int] = (10, 20, 50), mask_validation: bool = False
) -> dict[str, float]:
    """Ranking metrics of a model, averaged over the users of a split. All items except a user's training items are
    ranked.

    split: "test" or "val". ks: list lengths, each from 1 to the number of items. mask_validation: also exclude the
    validation items when testing. Returns {"recall@20": …} with recall, precision, ndcg, hit and mrr at every K, and
    "users", the number of users.
    """
    if split not in ("test", "val"):
        raise InputError(f"split = {split!r}: must be test or val")
    check_list_lengths("ks", ks, model.interactions.n_items)
    return split_metrics(model.users, model.items, model.interactions, split, ks, mask_validation)


def recommend(
    model: Model,
    users: Sequence[str | int] | None = None,
    k: int = 20,
    exclude: str = "train",
    *,
    histories: Mapping[str | int, Sequence[str | int]] | None = None,
    unknown: str = "refuse",
    new_items: tuple[Sequence[str | int], Mapping[str, Any]] | None = None,
    nearest: int = 0,
    candidates: Iterable[str | int] | None = None,
    excluded: Iterable[tuple[str | int, str | int]] | None = None,
    diversity: float = 0.0,
) -> Recommendations:
    """The k best items of each user, best first, by original ids.

    users: original ids; None: all users. exclude: which interactions are excluded, those of "train", or "all" for those
    of every split. histories, unknown: {user: items}; these users, embedded as by `fold_in`, take the place of those of
    the model, and their items are excluded. new_items, nearest: (ids, {modality: features}) of items that are ranked
    beside those of the model, embedded as by `embed_items`. candidates: items that may be recommended; unknown ones are
    ignored. excluded: more (user, item) pairs to leave out, such as purchases since training; unknown ones are ignored.
    diversity: from 0, the best items, to 1, the most different ones (maximal marginal relevance).

    Raises InputError that names the first unknown user, or what is wrong with an argument.

    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> found = recommend(model, k=2, histories={"new": [3, 8]}, candidates=range(100), excluded=[("new", 5)])
    >>> found.user.tolist()
    ['new', 'new']
    """
    model, pairs = for_request(model, histories, unknown, new_items, nearest, candidates, excluded)
    chunks = list(_recommend.recommend(model, users, k, exclude, excluded=pairs, diversity=diversity))
    return Recommendations(*(np.concatenate(column) for column in zip(*chunks, strict=True)))
