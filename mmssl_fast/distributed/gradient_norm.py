"""gradient_norm for several ranks: each rank has the columns of the weight that belong to its items."""

from __future__ import annotations

from torch import Tensor

from ..relation.algebra.gradient_norm import gradient_norm as gradient_norm_whole
from .collectives import copy_to_ranks
from .ranks import Ranks
from .relation_rows import norm_of_ranks


def gradient_norm(g: Tensor, weight: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``(g @ torch.cat(every rank's weight, 1)).norm(dim=1)``, the norm in the gradient penalty (equation 7), up
    to rounding.

    A rank receives 16·B·(P − 1)/P bytes, and 2·B·H·s·(P − 1)/P in backward.

    Args:
        g: [B, H], the same on every rank.
        weight: [H, I_p], this rank's columns.
        ranks: the processes.

    Returns:
        [B], dtype of g, bit-identical on every rank. A norm of 0 has gradient 0.

    Example:
        >>> import torch
        >>> from mmssl_fast.distributed import start
        >>> g, weight = torch.randn(3, 4), torch.randn(4, 6)
        >>> torch.allclose(gradient_norm(g, weight, start()), (g @ weight).norm(dim=1))
        True
    """
    if ranks.size == 1:
        return gradient_norm_whole(g, weight)
    return norm_of_ranks(gradient_norm_whole(copy_to_ranks(g, ranks), weight), ranks).to(g.dtype)
