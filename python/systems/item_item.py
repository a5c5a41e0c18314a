"""The item-item part beside the dot product of a trained system (model.item_item)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, distributed

from ..embeddings import Table, beside
from ..errors import InputError
from .ease import EASESystem

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset


class ItemItemPart:
    """With w = model.item_item, score_ui = h_u·h_i + w Σ_{j an item of u} B_ji, with the embeddings h of the system and
    the weights B of EASE, which does not train. The steps, and so h, are those without it.

    As one dot product: the embedding of a user is [h_u, x_u], that of an item [h_i, w B_·i], or for the factors of EASE
    those of its two tables. Not in the papers of the systems.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        if distributed.current().size > 1:
            raise InputError(
                "model.item_item: one process only can compute the item-item part; set it to 0, or leave out --ranks "
                "or torchrun"
            )
        self.weight, self.ease = config.model.item_item, EASESystem()
        self.ease.build(dataset, graph, config)

    def beside(self, users: Tensor, items: Tensor) -> tuple[Table, Table]:
        """The tables of both parts. users [U, d], items [I, d]: those of the system."""
        by_users, by_items = self.ease.embeddings()
        return beside(users, by_users), beside(items, by_items, self.weight)

    def cold_items(self, own: Tensor | None, dim: int) -> Table | None:
        """The embeddings of all items as if they were cold. own: those of the system, [I, dim], None if it does not use
        features. What a part has without features is 0; None if neither uses them."""
        by_features, (n_items, width) = self.ease.cold_items(), self.ease.items.shape
        if own is None and by_features is None:
            return None
        left = torch.zeros(n_items, dim) if own is None else own
        return beside(left, torch.zeros(n_items, width) if by_features is None else by_features, self.weight)
