"""The parts of a score: what the interactions of an item give, and what the features of each modality give."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..catalogue import Catalogue

INTERACTIONS = "interactions"


class Parts:
    """A score is u·h_i. The part of a modality is u·c_i^m, where Σ_m c_i^m is the embedding that the item would have by
    its features alone (`Inference.cold`). What remains of h_i came from interactions: the collaborative part. The
    embedding of a new item is factor * Σ_m c_i^m + shift (`ItemTower`), with the factor times the spread that was asked
    for, so that its parts are factor * u·c_i^m, and what remains is that of the items with interactions on average.

    names: of the parts, [] for a system that does not embed items by features. why_not: the reason.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.names: list[str] = []
        self.why_not = catalogue.no_features
        if catalogue.content is None:
            return
        names = list(catalogue.item_tower.modalities)
        self.separate = catalogue.item_tower.by_modality(catalogue.content[:1]) is not None
        data = catalogue.model.interactions
        cold = torch.from_numpy(np.diff(data.train.tocsc().indptr) == 0)
        spread = catalogue.model.spread
        self.rescaled = cold if spread is not None else torch.zeros_like(cold)  # items with the embeddings of new ones
        self.factor = catalogue.item_tower.factor.double() * (1.0 if spread is None else spread)
        self.names = [INTERACTIONS, *(names if self.separate else [" and ".join(names)])]

    @torch.no_grad()
    def of(self, vector: Tensor, items: np.ndarray) -> list[list[float]]:
        """The parts of the scores of items for a user embedding [d], in the order of `names`. Their sum is the score up
        to rounding."""
        if self.catalogue.content is None:
            return [[] for _ in items]
        rows = torch.from_numpy(items)
        content, tower = self.catalogue.content[rows], self.catalogue.item_tower
        features = (tower.by_modality(content) if self.separate else None) or [tower.cold(content)]
        user = vector.double()
        factor = torch.where(self.rescaled[rows], self.factor, 1.0)
        own = [factor * (part.double() @ user) for part in features]
        rest = self.catalogue.item_vectors(items).double() @ user - torch.stack(own).sum(0)
        return torch.stack([rest, *own], 1).tolist()
