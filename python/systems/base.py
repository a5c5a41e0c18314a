"""The protocol between the training loop and what it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmssl_fast.graph import InteractionGraph

    from ..config import Config
    from ..data import Dataset


class Batch(NamedTuple):
    """One step's triples. users, positives, negatives: int64 [B]; step: steps taken before it, counted from the run's
    start, which is also the offset of every counter-based draw the step makes."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
    step: int


class System(Protocol):
    """A recommender whose score of an item for a user is the dot product of two embeddings.

    trains: whether it learns in steps; one that does not is done after `build`.
    least_batch: the fewest triples a step can learn from, known after `build`.
    optimisers: by name, what a checkpoint must hold beside the parameters.
    """

    trains: bool
    least_batch: int
    optimisers: dict[str, torch.optim.Optimizer]

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        """Make the parameters on graph.device. The caller has seeded torch's generators."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of epoch 1, 2, …; not when an epoch is resumed after that step."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the parameters; returns every loss term (0-dim, detached or not, on the device) by name."""

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Users [U, d] and items [I, d], detached, as evaluation uses them (no dropout)."""

    def parameters(self) -> dict[str, Tensor]:
        """The learnt parameters by name, detached."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor by name that `step` reads and writes, buffers too; without the optimisers' own."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over, in place, what `state` of an equally built system gave. Raises KeyError, ValueError or
        RuntimeError for missing, unknown or wrongly shaped tensors."""
