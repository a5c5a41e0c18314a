"""Evaluation among cold items: those nobody has interacted with in training, known by their features alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmssl_fast import InteractionGraph

from ..config.load import load
from ..errors import InputError
from ..ranking import ranking_metrics
from ..systems import title
from . import saved_model
from .complete import load_data
from .folder import CONFIG


def cold_metrics(
    run: Path, split: str, ks: Sequence[int], mask_validation: bool = False
) -> tuple[saved_model.Model, dict[str, float]]:
    """(The run's model, ranking_metrics where only the cold items are candidates and relevant.)

    A cold item has no training interaction. Averages go over the users with a cold item in the split; their other
    held-out items do not count. Its embedding is the system's `cold_items`, the modality side alone: for MMSSL Eq. 12
    with its own features in the place of those that users pass on and no id part, ω Σ_m f̄_i^m/‖f̄_i^m‖. mask_validation:
    the user's validation items are no candidates when testing. Adds "candidates", their number.

    Reads the features from the data that the run was trained on. Raises InputError where that is gone or another, the
    system has no modality side, or no cold item is in the split.
    """
    folder = run.parent if run.is_file() else run
    model = saved_model.load(run)
    config = load(folder / CONFIG)
    dataset = load_data(**config.data.model_dump())
    if dataset.fingerprint != model.interactions.fingerprint:
        raise InputError(
            f"{config.data.path}: is not the data that {run} was trained on: fingerprint "
            f"{dataset.fingerprint[:16]}, not {model.interactions.fingerprint[:16]}; bring it back"
        )
    cold = np.flatnonzero(dataset.train.sum(axis=0) == 0)
    heldout = getattr(dataset, split)[:, cold]
    if not heldout.nnz:
        raise InputError(
            f"{run}: no cold item to find: {len(cold)} of {dataset.n_items} items have no training interaction, "
            f"none of them is in {split}; --cold needs data that holds such items out"
        )
    items = saved_model.rebuild(model, dataset, config).cold_items()
    if items is None:
        system_title = title(config.model.system)
        raise InputError(f"{run}: {system_title} knows items by their interactions alone, so no cold ones")
    seen = InteractionGraph.from_scipy(dataset.val[:, cold]) if mask_validation and split == "test" else None
    metrics = ranking_metrics(model.users, items[torch.from_numpy(cold)], heldout, ks, seen)
    return model, {**metrics, "candidates": len(cold)}
