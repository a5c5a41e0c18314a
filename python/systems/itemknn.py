"""ItemKNN (Sarwar et al., WWW 2001; Deshpande and Karypis, TOIS 2004): an item is scored by its similarity to the
user's items. Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from mmssl_fast import InteractionGraph
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from ..embeddings import Table
from .features import features_of
from .inference import FixedCatalogue
from .similarity import damped, nearest
from .untrained import UntrainedSystem

if TYPE_CHECKING:
    from ..config.sections import Config


class ItemKNNSystem(UntrainedSystem):
    """score_ui = Σ_{j in N(i), j an item of u} w_uj s_ij, where N(i) are the k items that are most similar to i, k =
    itemknn.neighbours, and w the weights of the interactions, 1 if there are none.

    s_ij is the cosine of the columns of the interactions with shrinkage, see `similarity.nearest`. The columns may be
    weighted by users (itemknn.user_exponent). With itemknn.content = w > 0, w times the cosine of the features is added
    for each modality, so that cold items have neighbours too. The embedding of a user is the row of the interactions,
    that of an item the row of its similarities, both sparse. Not in the MMSSL paper.
    """

    inference = FixedCatalogue
    uses_weights = True

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        settings, train = config.itemknn, sp.csr_array(dataset.weighted, dtype=np.float32)
        features = []
        if settings.content:
            features = [unit_rows(raw).double().numpy() for raw in features_of(dataset, config)]
        columns = sp.csr_array(damped(train, 0, settings.user_exponent).T)
        shape = settings.neighbours, settings.shrinkage, features, settings.content
        self.users, self.items = train, nearest(columns, *shape)
        self._by_features = None
        if settings.content:
            cold = sp.csr_array(columns.shape, dtype=np.float64)
            self._by_features = nearest(cold, *shape)

    def cold_items(self) -> Table | None:
        """The similarities by features alone; None without itemknn.content."""
        return self._by_features
