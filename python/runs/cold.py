"""`evaluate --cold`: ranking of cold items, which have no training interaction and only features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmssl_fast import InteractionGraph

from ..config.load import load
from ..config.sections import Config
from ..embeddings import take
from ..errors import InputError
from ..ranking import DEFAULT_KS, check_heldout, check_list_lengths, ranking_metrics
from ..systems import title
from . import saved_model
from .complete import load_data
from .folder import CONFIG


def evaluate_cold(
    run: str | Path, split: str = "test", ks: Sequence[int] = DEFAULT_KS, mask_validation: bool = False
) -> tuple[saved_model.Model, dict[str, float]]:
    """(model of the run, metrics). Only cold items are ranked, and only they count as relevant.

    The metrics are averages over the users with a cold item in the split. "candidates" is the number of cold items.
    Their embeddings come from `System.cold_items`. mask_validation: exclude the user's validation items when testing.

    The features are read from the data that the run was trained on. Raises InputError if the data is missing or has
    changed, the system does not use features, or the split has no cold item.

    >>> import tempfile
    >>> from mmssl_trainer import configure, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     settings = {"model.system": "svd", "svd.content": 0.5, "train.compare": "no"}
    ...     run = train(configure(settings), f"{folder}/run")
    ...     model, metrics = evaluate_cold(run.path, ks=[20])
    >>> metrics["candidates"] > 0, 0 <= metrics["recall@20"] <= 1
    (True, True)
    """
    check_heldout(split)
    run = Path(run)
    folder = run.parent if run.is_file() else run
    model = saved_model.load(run)
    check_list_lengths("k", ks, model.interactions.n_items)
    config = load(folder / CONFIG)
    dataset = load_data(**config.data.model_dump())
    if dataset.fingerprint != model.interactions.fingerprint:
        raise InputError(
            f"{config.data.path}: is not the data that {run} was trained on. Its fingerprint is "
            f"{dataset.fingerprint[:16]} instead of {model.interactions.fingerprint[:16]}; restore the data"
        )
    cold = np.flatnonzero(dataset.train.sum(axis=0) == 0)
    heldout = getattr(dataset, split)[:, cold]
    if not heldout.nnz:
        raise InputError(
            f"{run}: {len(cold)} of {dataset.n_items} items have no training interaction, and none of them is in the "
            f"{split} split; --cold needs such items"
        )
    items = saved_model.rebuild(model, dataset, config).cold_items()
    if items is None:
        raise InputError(f"{run}: {_without_features(config)}")
    seen = InteractionGraph.from_scipy(dataset.val[:, cold]) if mask_validation and split == "test" else None
    metrics = ranking_metrics(model.users, take(items, torch.from_numpy(cold)), heldout, ks, seen)
    return model, {**metrics, "candidates": len(cold)}


def _without_features(config: Config) -> str:
    """Why the system of a run cannot rank cold items: it never uses features, or a setting is needed for that."""
    name = config.model.system
    if hasattr(getattr(config, name, None), "content"):
        return (
            f"{title(name)} uses features, and can rank cold items, only if {name}.content is above 0; train it with "
            f"--set {name}.content=1"
        )
    return f"{title(name)} does not use features, so it cannot rank cold items"
