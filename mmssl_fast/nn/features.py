"""Features of items: what they must be, their missing rows (NaN), and their columns scaled to mean 0 and variance 1."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast import distributed
from mmssl_fast.distributed import ONE, Ranks


def missing_rows(raw: Tensor) -> Tensor:
    """bool [I, 1]: the missing rows of features [I, d], which are NaN."""
    return raw[:, :1].isnan()


def standardised(raw: Tensor, ranks: Ranks = ONE) -> Tensor:
    """Equals ``(raw - raw.mean(0)) / raw.std(0, correction=0)`` in float64. The columns of `empty_columns` become 0.
    With several ranks, `raw` has this rank's rows, and mean and deviation are those of the rows of all ranks.

    Missing rows, which are NaN, do not count in mean and deviation, and become 0."""
    raw = raw.to(torch.float64)
    missing = missing_rows(raw)
    known = raw[~missing[:, 0]] if missing.any() else raw
    if ranks.size == 1:
        if not known.shape[0]:
            return torch.zeros_like(raw)
        mean = known.mean(0)
        variance = (known - mean).square().mean(0)
    else:
        rows = distributed.all_sum(torch.tensor(known.shape[0], device=raw.device), ranks).clamp(min=1)
        mean = distributed.all_sum(known.sum(0), ranks) / rows
        variance = distributed.all_sum((known - mean).square().sum(0), ranks) / rows
    deviation = variance.sqrt()
    empty = empty_columns(mean, deviation)
    return torch.where(empty | missing, 0.0, (raw - mean) / torch.where(empty, 1.0, deviation))


def empty_columns(mean: Tensor, deviation: Tensor) -> Tensor:
    """bool [d]: the feature columns whose values differ by rounding errors only, so that scaling them to variance 1
    would make noise. mean, deviation: float64 [d].

    These are constant columns, up to four roundings of their mean in float32, and columns that vary by less than 1e-12
    of what the median column does: a language model whose weights for three columns are 1e-30 still has values there.
    The second limit leaves room for columns in other units, such as a share beside a time in nanoseconds.
    """
    constant = deviation <= 4 * torch.finfo(torch.float32).eps * mean.abs()
    varying = deviation[~constant]
    return constant | (deviation <= 1e-12 * varying.median()) if len(varying) else constant


def check_features(features: dict[str, Tensor], n_items: int, own: tuple[int, int]) -> None:
    """Raises ValueError for a wrong shape, or for a value of the rows `own` that is not finite."""
    if not features:
        raise ValueError("MMSSL: features must have at least one modality")
    for name, raw in features.items():
        if raw.ndim != 2 or raw.shape[0] != n_items or raw.shape[1] < 1:
            raise ValueError(
                f"MMSSL: features of {name!r} must be [{n_items}, d] with d ≥ 1, got shape {tuple(raw.shape)}"
            )
        finite = torch.isfinite(raw[slice(*own)]).all(1)
        finite |= raw[slice(*own)].isnan().all(1)
        if not finite.all():
            row = own[0] + int((~finite).nonzero()[0])
            raise ValueError(f"MMSSL: features of {name!r} must be finite, but row {row} is not")
