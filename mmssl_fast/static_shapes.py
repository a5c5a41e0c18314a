"""Shapes that depend on arguments' shapes alone: what lets a GPU run ahead of the host, and a CUDA graph hold a step.

A few rows of a batch may need more than the fast algebra: where it cancels, they are formed one by one. On a CPU they
are found and no other row pays for them. Asking a GPU which rows these are would stop the host until the answer is
there, so on CUDA the worst few are taken, always as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

RESCUED = 16

_forced = False


def is_static(device: torch.device) -> bool:
    """Whether the size of a result must not depend on values on this device."""
    return _forced or device.type == "cuda"


@contextmanager
def forced() -> Iterator[None]:
    """Within it every device is treated as CUDA is: for tests."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def rows_to_rescue(badness: Tensor) -> Tensor:
    """int64 [b]: the rows of badness [B] above 1, or, where shapes are static, the RESCUED worst (all of fewer)."""
    if is_static(badness.device):
        return badness.topk(min(RESCUED, badness.numel())).indices
    return (badness > 1).nonzero().flatten()
