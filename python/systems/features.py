"""The item features as the systems use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssl_fast.nn.features import missing_rows, standardised

from ..errors import InputError

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset


def features_of(dataset: Dataset, config: Config) -> list[Tensor]:
    """The features of every modality, float32 [I, d_m]. With model.standardise, columns have mean 0 and variance 1 over
    the rows that are not missing. Missing rows are 0; `present_of` tells them from others.

    Raises InputError if the dataset has no features.
    """
    if not dataset.features:
        raise InputError(
            f"{dataset.name}: {config.model.system} needs features; add <modality>_feat.npy or .parquet, or train "
            "--system lightgcn"
        )
    raw = [torch.from_numpy(values).float() for values in dataset.features.values()]
    if config.model.standardise:
        return [standardised(features).float() for features in raw]
    return [torch.where(missing_rows(features), 0, features) for features in raw]


def present_of(dataset: Dataset) -> list[Tensor]:
    """float32 [I, 1] of every modality: 1 for items with features, 0 for missing rows."""
    return [1 - missing_rows(torch.from_numpy(values)).float() for values in dataset.features.values()]
