"""describe: the public description of a Dataset. Imports no torch, for `mmssl-fast data check`."""

from __future__ import annotations

from typing import Any

from ..data import Dataset, summarise
from ..systems import SYSTEMS, without_features


def describe(dataset: Dataset) -> dict[str, Any]:
    """A description of a dataset that can be written as JSON: counts of users, items and interactions of each split,
    density, degrees, features, users and items without training interactions, notes and fingerprint.

    "systems": the names of the systems that can be trained on it; those that need features are missing if it has none.

    >>> from mmssl_trainer import load_data
    >>> describe(load_data())["interactions"]["train"] > 1000
    True
    """
    summary = summarise(dataset)
    return summary | {"systems": list(SYSTEMS) if summary["modalities"] else without_features()}
