"""Dropout of a table that is divided among ranks, with the masks of one process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .ranks import Ranks


def dropout(x: Tensor, n: int, rate: float, ranks: Ranks) -> Tensor:
    """Equals ``ranks.mine(F.dropout(torch.cat(every rank's x), rate))``. Nothing is sent.

    Every rank draws the mask of all n rows from torch's generator, so that the masks do not depend on the number of
    ranks, and the generators stay the same on all of them. It keeps the mask of its own rows.

    Args:
        x: [n_p, d], this rank's rows of a table [n, d].
        n: rows of the whole table.
        rate: dropout rate, in [0, 1).
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> dropout(torch.ones(3, 2), 3, 0.5, start()).shape
        torch.Size([3, 2])
    """
    if ranks.size == 1 or not rate:
        return F.dropout(x, rate)
    if x.device.type == "cpu":  # integers take the draws of F.dropout
        whole = torch.empty(n, x.shape[1], dtype=torch.int32).bernoulli_(1 - rate)
        return x * ranks.mine(whole).to(x.dtype).div_(1 - rate)
    return x * ranks.mine(F.dropout(x.new_ones(n, x.shape[1]), rate)).clone()
