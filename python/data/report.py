"""summarise: what `mmssl-fast data check` shows of a Dataset."""

import numpy as np

from .dataset import SPLITS

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


def summarise(dataset):
    """A dict of plain Python values (it can be written as JSON) that describes a Dataset.

    Keys: name, layout, users, items, interactions {split: count}, density (training pairs / (users x items)),
    user_degree and item_degree (of training: {"min", "25%", "50%", "75%", "95%", "max", "mean"}), modalities (a list of
    {"name", "width", "dtype", "norm_min", "norm_median", "norm_max", "zero_rows"}), without_history {"users", "items":
    how many have no training interaction}, held_out {"val", "test": {"pairs", "users", "new_users" (of these, without
    history), "pairs_of_new_users", "cold_items" (items of the split without history), "pairs_of_cold_items"}}, notes,
    fingerprint.
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
        "without_history": {
            "users": int((np.diff(train.indptr) == 0).sum()),
            "items": dataset.n_items - len(np.unique(train.indices)),
        },
        "held_out": {split: _held_out(train, getattr(dataset, split)) for split in SPLITS[1:]},
        "notes": list(dataset.notes),
        "fingerprint": dataset.fingerprint,
    }


def _held_out(train, matrix):
    """What a split holds, and how much of it has no history to be ranked by."""
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


def _degrees(degrees):
    names = ("min", "25%", "50%", "75%", "95%", "max")
    quantiles = np.quantile(degrees, _QUANTILES, method="inverted_cdf")
    return {**{name: int(value) for name, value in zip(names, quantiles, strict=True)}, "mean": float(degrees.mean())}


def _modality(name, values):
    norms = np.concatenate(
        [
            np.linalg.norm(values[begin : begin + 65536].astype(np.float64), axis=1)
            for begin in range(0, len(values), 65536)
        ]
    )
    return {
        "name": name,
        "width": values.shape[1],
        "dtype": values.dtype.name,
        "norm_min": float(norms.min()),
        "norm_median": float(np.median(norms)),
        "norm_max": float(norms.max()),
        "zero_rows": int((norms == 0).sum()),
    }
