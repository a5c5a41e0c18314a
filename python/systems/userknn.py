"""UserKNN (Resnick et al., CSCW 1994, here for implicit feedback): an item is scored by the similar users who have it.
Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from mmssl_fast import InteractionGraph

from ..data import Dataset
from .inference import FixedCatalogue
from .similarity import damped, nearest
from .untrained import UntrainedSystem

if TYPE_CHECKING:
    from ..config.sections import Config


class UserKNNSystem(UntrainedSystem):
    """score_ui = Σ_{v in N(u), i an item of v} w_vi s_uv, where N(u) are the k users that are most similar to u, k =
    userknn.neighbours, and w the weights of the interactions, 1 if there are none.

    s_uv is the cosine of the rows of the interactions with shrinkage, see `similarity.nearest`. The rows may be
    weighted by items (userknn.item_exponent). The embedding of a user is the row of its similarities, that of an item
    the column of the interactions, both sparse. Not in the MMSSL paper.
    """

    inference = FixedCatalogue
    uses_weights = True

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        settings, train = config.userknn, sp.csr_array(dataset.weighted, dtype=np.float32)
        self.users = nearest(damped(train, 1, settings.item_exponent), settings.neighbours, settings.shrinkage)
        self.items = sp.csr_array(train.T)
