"""The released code's contrastive and ranking losses."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.bpr_loss import bpr_loss as _bpr_loss
from ...ops.infonce import infonce_op
from ...ops.unit_rows import unit_rows


def batched_contrastive_loss(z1: Tensor, z2: Tensor, tau: float = 0.5) -> Tensor:
    """Equals ``-(between.diag() / (refl.sum(1) + between.sum(1) - refl.diag()) + 1e-8).log().mean()`` with
    ``refl = (cos(z1, z1) / tau).exp()`` and ``between = (cos(z1, z2) / tau).exp()``: the released contrastive loss.

    It is Eq. 11 with the users of the batch only, instead of all users. No N x N matrix is formed: O(N d) memory.

    Args:
        z1, z2: [N, d] of one dtype, not normalised; row k of both is the same user.
        tau: temperature τ' > 0.

    Returns:
        Scalar; gradients reach z1 and z2 (0 at a zero row).

    Example:
        >>> import torch
        >>> z = torch.eye(3)
        >>> batched_contrastive_loss(z, z) < batched_contrastive_loss(z, z.roll(1, 0))
        tensor(True)
    """
    everyone = torch.arange(z1.shape[0], device=z1.device)
    terms, _ = infonce_op(unit_rows(z2), unit_rows(z1), everyone, tau, True)
    return -((-terms).exp() + 1e-8).log().mean()


def bpr_loss(
    users: Tensor, pos_items: Tensor, neg_items: Tensor, decay: float, batch_size: int
) -> tuple[Tensor, Tensor, float]:
    """Equals the released ``bpr_loss``: ``(-logsigmoid(pos - neg).mean(), decay / batch_size * (squares) / 2, 0.0)``.

    users, pos_items, neg_items: [B, d], the gathered rows (Eq. 14).
    decay: weight of the squared embeddings of the batch. batch_size: their divisor.

    Example:
        >>> import torch
        >>> users, pos, neg = torch.ones(3, 2), torch.ones(3, 2), -torch.ones(3, 2)
        >>> ranking, squares, _ = bpr_loss(users, pos, neg, decay=0.1, batch_size=3)
        >>> squares
        tensor(0.3000)
    """
    n = users.shape[0]
    ids = torch.arange(2 * n, device=users.device)
    ranking = _bpr_loss(users, torch.cat((pos_items, neg_items)), ids[:n], ids[:n], ids[n:])
    squares = (users.square().sum() + pos_items.square().sum() + neg_items.square().sum()) / 2
    return ranking, decay * (squares / batch_size), 0.0
