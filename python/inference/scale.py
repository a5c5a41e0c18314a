"""The scale of new items: their scores become comparable with those of the items with interactions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..embeddings import dense
from ..runs.saved_model import Model

USERS = 1 << 14  # users whose scores are measured at once
FLAT = 1e-6  # a spread of scores below this share of the largest is rounding error


class Scale(NamedTuple):
    """The embedding of a new item is factor * x + shift, where x is the one that the system gives it.

    factor: 0-dim, shift: [d], float32.
    """

    factor: Tensor
    shift: Tensor


def described(model: Model, by_features: Tensor) -> Tensor:
    """The items of training, int64 [n], that have interactions and features. by_features: [I, d]."""
    warm = torch.from_numpy(np.diff(model.interactions.train.tocsc().indptr) > 0)
    return (warm & (by_features != 0).any(1)).nonzero()[:, 0]


def scale_of(model: Model, known: Tensor, as_new: Tensor) -> Scale:
    """The scale with which the scores of known items, represented as if they were new, have the mean of their trained
    scores for every user, and their standard deviation over the items in the mean of the users.

    model: as it was trained. known: n items with interactions, int64 [n]. as_new: what the system gives them as new
    items, [n, d]. Without two of them, or if all have the same scores, there is nothing to compare: only the means are
    those of the known items.
    """
    trained = dense(model.items, "ranking new items")[known].double()
    as_new = as_new.double()
    users = dense(model.users, "ranking new items")
    if not len(known) or not len(users):
        return Scale(torch.ones(()), as_new.new_zeros(as_new.shape[1]).float())
    spread = _spreads(users, trained, as_new)
    there = spread[0] > FLAT * spread[0].amax()
    square = (spread[1, there] / spread[0, there]).square().mean() if there.any() else torch.zeros(())
    factor = square.rsqrt() if square > FLAT**2 else torch.ones(()).double()
    return Scale(factor.float(), (trained.mean(0) - factor * as_new.mean(0)).float())


def _spreads(users: Tensor, *tables: Tensor) -> Tensor:
    """The standard deviations of the scores of every user over the items of each table, float64 [tables, U]."""
    centred = [items - items.mean(0) for items in tables]
    covariances = [items.mT @ items / len(items) for items in centred]
    blocks = [
        torch.stack([((part @ covariance) * part).sum(1).clamp(min=0).sqrt() for covariance in covariances])
        for part in (block.double() for block in users.split(USERS))
    ]
    return torch.cat(blocks, 1)
