"""fit, evaluate, breakdown and recommend: the public functions of mmssl_trainer for a model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import ranking
from .config.sections import Config
from .data import Dataset
from .inference.lists import for_request
from .ranking import DEFAULT_KS, check_heldout, check_list_lengths, split_metrics
from .runs import list_metrics as _lists
from .runs import recommend as _recommend
from .runs.recommend import Recommendations
from .runs.saved_model import Model
from .training import loop
from .training.progress import Observer


def fit(dataset: Dataset, config: Config | None = None, observer: Observer | None = None) -> Model:
    """Train config.model.system on the dataset. Returns the model of the best epoch, by the Recall@20 on the
    validation split or the metric train.select_by.

    observer: receives a call after every step and epoch. Nothing is written to disk; `mmssl-fast train` writes a run
    folder that can be resumed. Raises NonFiniteLoss, OutOfMemory, and InputError if the dataset does not suit the
    configuration.

    >>> from mmssl_trainer import configure, load_data
    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> len(model.epochs)
    1
    """
    config = config or Config()
    return Model.of(loop.fit(dataset, config, observer), dataset, config)


def evaluate(
    model: Model, split: str = "test", ks: Sequence[int] = DEFAULT_KS, mask_validation: bool = False
) -> dict[str, float]:
    """Ranking metrics of a model, averaged over the users of a split. All items except a user's training items are
    ranked.

    split: "test" or "val". ks: list lengths, each from 1 to the number of items. mask_validation: also exclude the
    validation items when testing. Returns {"recall@20": …} with recall, precision, ndcg, hit and mrr at every K, and
    "users", the number of users.

    >>> from mmssl_trainer import configure, load_data
    >>> model = fit(load_data(), configure({"model.system": "popularity"}))
    >>> sorted(evaluate(model, ks=[20]))
    ['hit@20', 'mrr@20', 'ndcg@20', 'precision@20', 'recall@20', 'users']
    """
    _check(model, split, ks)
    return split_metrics(model.users, model.items, model.interactions, split, ks, mask_validation)


def breakdown(
    model: Model, split: str = "test", ks: Sequence[int] = DEFAULT_KS, mask_validation: bool = False
) -> dict[str, dict[str, float]]:
    """`evaluate` for the held-out pairs of known and of new users, and for those of known and of cold items.

    New users and cold items have no training interactions. The two groups of users are missing if the split has no pair
    of a new user, and those of items if it has no pair of a cold item. "pairs" is the number of held-out pairs.

    >>> from mmssl_trainer import configure, load_data
    >>> model = fit(load_data(), configure({"model.system": "popularity"}))
    >>> groups = breakdown(model)
    >>> sorted(groups), groups["cold items"]["recall@20"]
    (['cold items', 'known items'], 0.0)
    """
    _check(model, split, ks)
    return ranking.breakdown(model.users, model.items, model.interactions, split, ks, mask_validation)


def beyond_accuracy(
    model: Model, split: str = "test", ks: Sequence[int] = DEFAULT_KS, mask_validation: bool = False
) -> dict[str, float]:
    """Properties of the recommended lists, for the users and arguments of `evaluate`: {"coverage@20": …} with coverage,
    novelty, diversity and cold_share at every K. docs/evaluation.md defines them.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "popularity"}))
    >>> lists = beyond_accuracy(model, ks=[20])
    >>> lists["coverage@20"] < 0.5 and lists["cold_share@20"] == 0
    True
    """
    _check(model, split, ks)
    return _lists.list_metrics(model, split, ks, mask_validation).means()


def intervals(
    model: Model,
    split: str = "test",
    ks: Sequence[int] = DEFAULT_KS,
    mask_validation: bool = False,
    lists: bool = False,
) -> dict[str, tuple[float, float]]:
    """95% confidence intervals (low, high) of the means that `evaluate` returns, and with `lists` of those of
    `beyond_accuracy`, by Student's t distribution over the users. Coverage is no mean over users, so it has none.

    >>> from mmssl_trainer import configure, evaluate, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "popularity"}))
    >>> low, high = intervals(model)["recall@20"]
    >>> low < evaluate(model)["recall@20"] < high
    True
    """
    _check(model, split, ks)
    values = _lists.values_of_users(model, split, ks, mask_validation)[1]
    if lists:
        values |= _lists.list_metrics(model, split, ks, mask_validation).values
    return {name: _lists.interval(each) for name, each in values.items()}


def _check(model: Model, split: str, ks: Sequence[int]) -> None:
    check_heldout(split)
    check_list_lengths("k", ks, model.interactions.n_items)


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
    spread: float = 1.0,
    candidates: Iterable[str | int] | None = None,
    excluded: Iterable[tuple[str | int, str | int]] | None = None,
    diversity: float = 0.0,
) -> Recommendations:
    """The k best items of each user, best first, by original ids.

    users: original ids; None: all users. exclude: which interactions are excluded, those of "train", or "all" for those
    of every split. histories, unknown: {user: items}; these users, embedded as by `fold_in`, take the place of those of
    the model, and their items are excluded. new_items, nearest, spread: (ids, {modality: features}) of items that
    are ranked together with those of the model, embedded as by `embed_items`. candidates: items that may be
    recommended; unknown ones are ignored. excluded: more (user, item) pairs to leave out, such as purchases since
    training; unknown ones are ignored. diversity: from 0, the best items, to 1, the most different ones (maximal
    marginal relevance).

    Raises InputError that names the first unknown user, or what is wrong with an argument.

    >>> from mmssl_trainer import configure, load_data
    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> found = recommend(model, k=2, histories={"new": [3, 8]}, candidates=range(100), excluded=[("new", 5)])
    >>> found.user.tolist()
    ['new', 'new']
    """
    model, pairs = for_request(model, histories, unknown, new_items, nearest, spread, candidates, excluded)
    chunks = list(_recommend.recommend(model, users, k, exclude, excluded=pairs, diversity=diversity))
    return Recommendations(*(np.concatenate(column) for column in zip(*chunks, strict=True)))
