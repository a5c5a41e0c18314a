"""Diverse lists by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.ops.unit_rows import unit_rows

POOL, LEAST_POOL = 5, 100  # candidates per place of the list, and at least


def pool_size(k: int, n_items: int) -> int:
    """The number of best items from which a list of k is chosen."""
    return min(max(POOL * k, LEAST_POOL), max(n_items, k))


def diverse(scores: Tensor, items: Tensor, embeddings: Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(scores [B, k], items [B, k]) chosen one after another from a pool of M items: each time the item with the
    largest

        (1 − diversity) r − diversity max over the items chosen so far of the cosine of their embeddings,

    where r is the score, scaled to 0 for the worst and 1 for the best item of the pool. diversity = 0 keeps the order
    of the pool.

    scores [B, M], items int64 [B, M]: the pool, best first, −1 for a missing item. embeddings: [I, d].
    """
    there = items >= 0
    unit = unit_rows(embeddings[items.clamp(min=0)])
    best = scores[:, :1]
    worst = torch.where(there, scores, torch.inf).amin(1, keepdim=True)
    spread = torch.where(best > worst, best - worst, 1.0)
    relevance = torch.where(there, (scores - worst) / spread, -torch.inf)
    nearest = torch.zeros_like(relevance)  # cosine with the nearest chosen item
    left, places = there.clone(), []
    rows = torch.arange(len(items))
    for step in range(min(k, items.shape[1])):
        value = torch.where(left, (1 - diversity) * relevance - diversity * nearest, -torch.inf)
        # argmax may return any of several equal values, and the pool is in the order of the ranking.
        place = (value == value.amax(1, keepdim=True)).to(torch.uint8).argmax(1)
        places.append(place)
        left[rows, place] = False
        cosine = (unit * unit[rows, place][:, None]).sum(2)
        nearest = cosine if step == 0 else torch.maximum(nearest, cosine)
    chosen = torch.stack(places, 1)
    # A place without an item left repeats one that was chosen before.
    enough = torch.arange(chosen.shape[1]) < there.sum(1, keepdim=True)
    found = torch.where(enough, items.gather(1, chosen), -1)
    return torch.where(enough, scores.gather(1, chosen), -torch.inf), found
