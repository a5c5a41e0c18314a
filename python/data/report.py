"""summarise: the description of a Dataset that `mmssl-fast data check` shows and result.json contains."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from .dataset import SPLITS, Dataset
from .npy import release

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
_VALUES_AT_ONCE = 1 << 22


def summarise(dataset: Dataset) -> dict[str, Any]:
    """A description of a Dataset as a dict that can be written as JSON.

    interactions: {split: count}. density: training pairs / (users x items). user_degree, item_degree: quantiles and
    mean of the number of training interactions. without_history: users and items without training interactions.
    weights: quantiles of the weights of the training interactions, whose mean is 1; None without weights. held_out:
    {"val", "test": counts of pairs, users, and of new users and cold items, which have no training interactions}.
    """
    train = dataset.train
    return {
        "name": dataset.name,
        "layout": dataset.layout,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": {split: int(getattr(dataset, split).nnz) for split in SPLITS},
        "density": train.nnz / (dataset.n_users * dataset.n_items),
        "user_degree": _degrees(np.diff(train.indptr)),
        "item_degree": _degrees(np.bincount(train.indices, minlength=dataset.n_items)),
        "modalities": [_modality(name, values) for name, values in dataset.features.items()],
        "weights": None if dataset.weights is None else _quantiles(dataset.weights, float),
        "without_history": {
            "users": int((np.diff(train.indptr) == 0).sum()),
            "items": dataset.n_items - len(np.unique(train.indices)),
        },
        "held_out": {split: _held_out(train, getattr(dataset, split)) for split in SPLITS[1:]},
        "notes": list(dataset.notes),
        "fingerprint": dataset.fingerprint,
    }


def _held_out(train: sp.csr_array, matrix: sp.csr_array) -> dict[str, int]:
    """Counts of a validation or test matrix, and how many of its pairs belong to new users or cold items."""
    pairs = matrix.tocoo()
    new, cold = np.diff(train.indptr) == 0, np.bincount(train.indices, minlength=train.shape[1]) == 0
    return {
        "pairs": int(matrix.nnz),
        "users": len(np.unique(pairs.row)),
        "new_users": len(np.unique(pairs.row[new[pairs.row]])),
        "pairs_of_new_users": int(new[pairs.row].sum()),
        "cold_items": len(np.unique(pairs.col[cold[pairs.col]])),
        "pairs_of_cold_items": int(cold[pairs.col].sum()),
    }


def _degrees(degrees: np.ndarray) -> dict[str, float]:
    return {**_quantiles(degrees, int), "mean": float(degrees.mean())}


def _quantiles(values: np.ndarray, kind: type[int] | type[float]) -> dict[str, float]:
    names = ("min", "25%", "50%", "75%", "95%", "max")
    quantiles = np.quantile(values, _QUANTILES, method="inverted_cdf")
    return {name: kind(value) for name, value in zip(names, quantiles, strict=True)}


def _modality(name: str, values: np.ndarray) -> dict[str, Any]:
    norms, step = np.empty(len(values)), max(1, _VALUES_AT_ONCE // values.shape[1])
    for begin in range(0, len(values), step):
        norms[begin : begin + step] = np.linalg.norm(values[begin : begin + step].astype(np.float64), axis=1)
    release(values)
    missing, norms = int(np.isnan(norms).sum()), norms[~np.isnan(norms)]
    return {
        "name": name,
        "width": values.shape[1],
        "dtype": values.dtype.name,
        "norm_min": float(norms.min()),
        "norm_median": float(np.median(norms)),
        "norm_max": float(norms.max()),
        "zero_rows": int((norms == 0).sum()),
        "missing_rows": missing,
    }
