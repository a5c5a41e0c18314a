"""train.balance: gradient norms of the loss terms, and their directions relative to the ranking loss."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..memory.retry import StepSnapshot
from ..systems.base import Batch, System

Balance = dict[str, dict[str, dict[str, float]]]


def measure(system: System, batch: Batch, device: torch.device) -> Balance:
    """`balance` of the loss terms of a system for a batch. Does not change the system or torch's random generators."""
    snapshot = StepSnapshot(
        system, device
    )  # terms may draw random numbers, and BatchNorm updates its running statistics
    result = balance(system.terms(batch), system.trained_parameters())
    if not snapshot.restore():
        raise RuntimeError(f"{type(system).__name__}.terms wrote to a large tensor, which is not allowed")
    return result


def balance(terms: dict[str, Tensor], parameters: Iterable[tuple[str, nn.Parameter]]) -> Balance:
    """{part: {term: {"norm": …, "cosine": …}}} for every loss term and every part of the model.

    A part consists of the parameters whose names are equal up to the first dot. norm: length of the gradient of the
    term. cosine: cosine between this gradient and that of the first term, which is the ranking loss; 0 if one of them
    is 0. terms: 0-dim tensors; "total" is skipped. The autograd graph is kept, and no .grad is written.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    inputs = [parameter for _, parameter in named]
    parts = [name.split(".")[0] for name, _ in named]
    result: Balance = {part: {} for part in parts}
    ranking: list[Tensor | None] = []
    lengths: dict[str, float] = {}
    for term, loss in terms.items():
        if term == "total":
            continue
        gradients = _gradients(loss, inputs)
        squares, dots = dict.fromkeys(result, 0.0), dict.fromkeys(result, 0.0)
        for part, gradient, first in zip(parts, gradients, ranking or gradients, strict=True):
            if gradient is not None:
                squares[part] += torch.linalg.vector_norm(gradient, dtype=torch.float64).item() ** 2
                dots[part] += 0.0 if first is None else (gradient * first).sum(dtype=torch.float64).item()
        norms = {part: math.sqrt(square) for part, square in squares.items()}
        if not ranking:
            ranking, lengths = gradients, norms
        for part, norm in norms.items():
            product = norm * lengths[part]
            result[part][term] = {"norm": norm, "cosine": dots[part] / product if product > 0 else 0.0}
    return result


def _gradients(loss: Tensor, inputs: list[nn.Parameter]) -> list[Tensor | None]:
    if not loss.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True))
