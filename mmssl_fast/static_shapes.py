"""Result shapes that depend on argument shapes alone, so that a GPU runs ahead of the host and CUDA graphs can record.

In a few rows of a batch the fast algebra may cancel; these are formed densely. On a CPU exactly those rows are chosen.
On a GPU the host would have to wait to learn how many there are, so there a fixed number of the worst rows is formed,
whether they need it or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

RESCUED = 16  # rows of a batch that are formed densely where shapes are static

_forced = False


def is_static(device: torch.device) -> bool:
    """Whether the size of a result must not depend on values on this device."""
    return _forced or device.type == "cuda"


@contextmanager
def forced() -> Iterator[None]:
    """Inside, every device is treated like CUDA. For tests."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def rows_to_rescue(badness: Tensor) -> Tensor:
    """int64 [b]: the rows whose badness [B] is above 1; where shapes are static, the RESCUED worst rows."""
    if is_static(badness.device):
        return badness.topk(min(RESCUED, badness.numel())).indices
    return (badness > 1).nonzero().flatten()
