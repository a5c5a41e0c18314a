"""Switches Adam and AdamW to torch's fused steps: the same steps in one pass over memory."""

from __future__ import annotations

from typing import Any

import torch

KINDS = (torch.optim.Adam, torch.optim.AdamW)
OPTIONS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")


def fusable(optimizer: Any) -> str | None:
    """The reason why this optimizer cannot be switched to fused steps, or None."""
    if type(optimizer) not in KINDS:
        return f"is {type(optimizer).__name__}, not Adam or AdamW of torch.optim"
    if any(group[option] for group in optimizer.param_groups for option in ("capturable", "differentiable", "fused")):
        return "capturable, differentiable or fused is already set"
    if optimizer.state:
        return "has already made a step"
    if not all(p.is_floating_point() and not p.is_sparse for group in optimizer.param_groups for p in group["params"]):
        return "has sparse parameters or parameters that are not floating-point"
    return None


def fuse_(optimizer: torch.optim.Optimizer) -> None:
    """Enables fused steps, in place. Parameter groups and state do not change."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def steps_of(optimizer: torch.optim.Optimizer, fused: bool) -> list[tuple[str, object]]:
    """The values of small parameters after three steps of an optimizer with these options, for a comparison."""
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
