"""Result shapes that depend on the shapes of the arguments only, so that the host never waits for the GPU and CUDA
graphs can be captured.

In a few rows of a batch, the fast algebra may lose digits by cancellation; these rows are formed densely. On a CPU
exactly these rows are selected. On a GPU the host would have to wait for their number, so a fixed number of the worst
rows is formed instead, whether they need it or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

STATIC_DENSE_ROWS = 16  # number of rows per batch that are formed densely if shapes are static

_forced = False


def is_static(device: torch.device) -> bool:
    """Whether shapes must not depend on the values of tensors on this device."""
    return _forced or device.type == "cuda"


@contextmanager
def forced() -> Iterator[None]:
    """A context in which every device is treated like CUDA, for tests."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def rows_to_form_densely(badness: Tensor) -> Tensor:
    """The rows with badness above 1, int64 [b], from badness [B]. If shapes are static, the STATIC_DENSE_ROWS rows with
    the largest badness instead."""
    if is_static(badness.device):
        return badness.topk(min(STATIC_DENSE_ROWS, badness.numel())).indices
    return (badness > 1).nonzero().flatten()
