"""The base class of the systems that are not trained in steps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..embeddings import Table


class UntrainedSystem:
    """A System without training: `build` computes the embeddings `users` [U, d] and `items` [I, d] directly.

    uses_weights: whether `build` uses the weights of the interactions (Dataset.weighted).
    """

    trains = False
    reads_features = False
    least_batch = 1
    uses_weights = False
    users: Table
    items: Table

    def __init__(self) -> None:
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def start_epoch(self, epoch: int) -> None:
        pass

    def step(self, batch: object) -> dict[str, Tensor]:
        raise RuntimeError(f"{type(self).__name__} is not trained in steps")

    def terms(self, batch: object) -> dict[str, Tensor]:
        return {}

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ()

    def other_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ()

    def embeddings(self) -> tuple[Table, Table]:
        return self.users, self.items

    def cold_items(self) -> Table | None:
        return None

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        pass

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        pass
