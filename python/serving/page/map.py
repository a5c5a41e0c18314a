"""The map of the page: item embeddings in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl_fast.ops.unit_rows import unit_rows

from ..catalogue import Catalogue

MOST = 6000  # items on the map; more cannot be told apart, and make the page slow
STEPS = 2000  # positions per axis


def points(catalogue: Catalogue, counts: np.ndarray) -> dict[str, Any]:
    """The items with the most interactions, with positions from 0 to STEPS.

    The positions are the two leading principal components of the embeddings, which are scaled to unit length because
    similarity is a cosine. share: the part of the variance that the two have. It tells how much of the neighbourhoods
    can be seen.
    """
    order = np.argsort(-counts, kind="stable")
    shown = order[catalogue.known_items[order]]
    total = len(shown)
    shown = shown[:MOST]
    if len(shown) < 3:
        return {"items": [], "total": total, "x": [], "y": [], "share": 0.0}
    places, share = projected(unit_rows(catalogue.item_vectors(shown)))
    return {
        "items": shown.tolist(),
        "total": total,
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "share": share,
    }


def projected(rows: Tensor) -> tuple[np.ndarray, float]:
    """(int64 [n, 2], share of the variance): the two leading principal components of rows [n, d], scaled by one factor
    to 0..STEPS. Outliers beyond four deviations are moved to the border."""
    centred = rows.double() - rows.double().mean(0)
    variance = float(centred.square().sum())
    with torch.random.fork_rng(devices=[]):  # the same map at every start, without a change to other random numbers
        torch.manual_seed(0)
        _, values, right = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    right = right[:, :2] * torch.where(right[:, :2].sum(0) < 0, -1.0, 1.0)  # a sign that does not depend on LAPACK
    places = centred @ right
    if places.shape[1] < 2:
        places = torch.cat([places, torch.zeros_like(places)], 1)
    places = places.clamp(-4 * places.std(0), 4 * places.std(0))
    low, high = places.amin(0), places.amax(0)
    size = float((high - low).amax()) or 1.0
    inside = (places - (low + high) / 2) / size + 0.5
    share = float(values[:2].square().sum()) / variance if variance else 0.0
    return (inside * STEPS).round().long().numpy(), min(share, 1.0)
