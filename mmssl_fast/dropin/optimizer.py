"""torch's fused Adam in the place of its loop of one kernel an operation: the same steps, one pass over memory."""

from __future__ import annotations

from typing import Any

import torch

KINDS = (torch.optim.Adam, torch.optim.AdamW)
OPTIONS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")


def fusable(optimizer: Any) -> str | None:
    """Why `fuse_` cannot be used on this optimizer, or None."""
    if type(optimizer) not in KINDS:
        return f"is a {type(optimizer).__name__}, not an Adam or AdamW of torch"
    if any(group[option] for group in optimizer.param_groups for option in ("capturable", "differentiable", "fused")):
        return "has capturable, differentiable or fused set already"
    if optimizer.state:
        return "has made a step already"
    if not all(p.is_floating_point() and not p.is_sparse for group in optimizer.param_groups for p in group["params"]):
        return "has parameters that the fused step does not take"
    return None


def fuse_(optimizer: torch.optim.Optimizer) -> None:
    """Switches fused steps on, in place; the groups and the state stay the optimizer's."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def steps_of(optimizer: torch.optim.Optimizer, fused: bool) -> list[tuple[str, object]]:
    """What three steps of an optimizer with these options do to small parameters, as a comparison observes it."""
    found: list[tuple[str, object]] = []
    for number, group in enumerate(optimizer.param_groups):
        options = {
            key: value for key, value in group.items() if key in ("lr", "betas", "eps", "weight_decay", "amsgrad")
        }
        like = group["params"][0]
        p = torch.linspace(-1, 1, 65, dtype=like.dtype, device=like.device).view(5, 13).requires_grad_()
        copy = type(optimizer)([p], **options, fused=fused)  # type: ignore[call-arg]
        for step in range(3):
            p.grad = (p.detach() * 7 + step).sin()
            copy.step()
        found.append((f"parameters of group {number} after 3 steps", p.detach()))
    return found
