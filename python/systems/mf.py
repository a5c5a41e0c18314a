"""MF-BPR (Rendle et al., UAI 2009): matrix factorisation with the Bayesian personalised ranking loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from mmssl_fast import InteractionGraph

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import Inference

if TYPE_CHECKING:
    from ..config.sections import Config


class MF(Recommender):
    """ŷ_ui = e_u·e_i, trained with bpr_loss(e_u, e_i, …)."""

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        self.users, self.items = table(graph.n_users, config.model.dim), table(graph.n_items, config.model.dim)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items


class MFInference(Inference):
    """Neither users nor items can be embedded without training."""

    no_users = "the embedding of a user is trained, not computed from the items"


class MFSystem(ModuleSystem):
    """MF with BPR (Eq. 14) and AdamW."""

    model_type = MF
    inference = MFInference
    over_ranks: ClassVar = {"users": "users", "items": "items"}
    over_groups: ClassVar = True
