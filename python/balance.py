"""How much each loss term pulls on each part of a model, and whether it pulls the way the ranking does."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

Balance = dict[str, dict[str, dict[str, float]]]


def balance(terms: dict[str, Tensor], parameters: Iterable[tuple[str, nn.Parameter]]) -> Balance:
    """The gradient of every term with respect to every part, {part: {term: {"norm": …, "cosine": …}}}.

    A part is the parameters that share a name up to its first dot. norm: the gradient's length; cosine: its cosine with
    the gradient of the first term, the one that ranks, 0 where one of the two is 0. terms: 0-dim, "total" left out; the
    graph that they hang on is still there afterwards, and no .grad is written.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    parts: dict[str, list[int]] = {}
    for at, (name, _) in enumerate(named):
        parts.setdefault(name.split(".")[0], []).append(at)
    inputs = [parameter for _, parameter in named]
    found: Balance = {part: {} for part in parts}
    ranking: dict[str, Tensor] = {}
    for term, loss in terms.items():
        if term == "total":
            continue
        gradients = _gradients(loss, inputs)
        for part, members in parts.items():
            whole = torch.cat([gradients[at].flatten() for at in members]).double()
            norm = whole.norm()
            first = ranking.setdefault(part, whole)
            lengths = norm * first.norm()
            cosine = (whole @ first / lengths).item() if lengths > 0 else 0.0
            found[part][term] = {"norm": norm.item(), "cosine": cosine}
    return found


def _gradients(loss: Tensor, inputs: list[nn.Parameter]) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(one) if gradient is None else gradient for one, gradient in zip(inputs, found, strict=True)
    ]
