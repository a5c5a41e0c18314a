"""How much each loss term pulls on each part of a model, and whether it pulls the way the ranking does."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..memory.retry import StepSnapshot
from ..systems.base import Batch, System

Balance = dict[str, dict[str, dict[str, float]]]


def measure(system: System, batch: Batch, device: torch.device) -> Balance:
    """`balance` of a system's terms at a batch. The system and torch's generators are left as they were."""
    before = StepSnapshot(system, device)  # a term may draw, and BatchNorm counts every batch it meets
    found = balance(system.terms(batch), system.trained_parameters())
    if not before.restore():
        raise RuntimeError(f"{type(system).__name__}.terms wrote to a large tensor; it must leave the system as it was")
    return found


def balance(terms: dict[str, Tensor], parameters: Iterable[tuple[str, nn.Parameter]]) -> Balance:
    """The gradient of every term with respect to every part, {part: {term: {"norm": …, "cosine": …}}}.

    A part is the parameters that share a name up to its first dot. norm: the gradient's length; cosine: its cosine with
    the gradient of the first term, the one that ranks, 0 where one of the two is 0. terms: 0-dim, "total" left out; the
    graph that they hang on is still there afterwards, and no .grad is written.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    inputs = [parameter for _, parameter in named]
    parts = [name.split(".")[0] for name, _ in named]
    found: Balance = {part: {} for part in parts}
    ranking: list[Tensor | None] = []
    lengths: dict[str, float] = {}
    for term, loss in terms.items():
        if term == "total":
            continue
        gradients = _gradients(loss, inputs)
        squares, dots = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0.0)
        for part, own, first in zip(parts, gradients, ranking or gradients, strict=True):
            if own is not None:
                squares[part] += torch.linalg.vector_norm(own, dtype=torch.float64).item() ** 2
                dots[part] += 0.0 if first is None else (own * first).sum(dtype=torch.float64).item()
        norms = {part: math.sqrt(square) for part, square in squares.items()}
        if not ranking:
            ranking, lengths = gradients, norms
        for part, norm in norms.items():
            both = norm * lengths[part]
            found[part][term] = {"norm": norm, "cosine": dots[part] / both if both > 0 else 0.0}
    return found


def _gradients(loss: Tensor, inputs: list[nn.Parameter]) -> list[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True))
