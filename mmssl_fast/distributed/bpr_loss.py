"""bpr_loss for several ranks: every rank gathers the rows of the batch and computes the same loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.bpr_loss import bpr_loss as bpr_loss_whole
from .collectives import gather_rows
from .ranks import Ranks


def bpr_loss(
    user_emb: Tensor,
    item_emb: Tensor,
    users: Tensor,
    pos: Tensor,
    neg: Tensor,
    n_users: int,
    n_items: int,
    ranks: Ranks,
) -> Tensor:
    """Equals ``mmssl_fast.bpr_loss`` (equation 14) of the whole tables; value and gradients are bit-identical.

    Every rank gathers the distinct rows of the batch and computes the loss. A rank receives 2·R·d·s·(P − 1)/P bytes for
    R distinct users and items, and nothing in backward.

    Args:
        user_emb: [U_p, d] and item_emb: [I_p, d], this rank's rows.
        users, pos, neg: int64 [B], ids of the whole tables, the same on every rank.
        n_users, n_items: U and I.
        ranks: the processes.

    Returns:
        The mean loss over the batch, bit-identical on every rank.

    Raises:
        IndexError: names the first id outside [0, U) or [0, I).

    Example:
        >>> from mmssl_fast.distributed import start
        >>> u = torch.eye(2)
        >>> bpr_loss(u, u, *torch.tensor([[0], [0], [1]]), 2, 2, start())
        tensor(0.3133)
    """
    if ranks.size == 1:
        return bpr_loss_whole(user_emb, item_emb, users, pos, neg)
    for name, ids, side, n in (
        ("users", users, "users", n_users),
        ("pos", pos, "items", n_items),
        ("neg", neg, "items", n_items),
    ):
        outside = ((ids < 0) | (ids >= n)).nonzero()
        if outside.numel():
            at = int(outside[0])
            raise IndexError(f"bpr_loss: {name}[{at}] is {int(ids[at])}, there are {n} {side}")
    user_ids, own_users = torch.unique(users, return_inverse=True)
    item_ids, own_items = torch.unique(torch.cat((pos, neg)), return_inverse=True)
    user_rows = gather_rows(user_emb, user_ids, n_users, ranks)
    item_rows = gather_rows(item_emb, item_ids, n_items, ranks)
    return bpr_loss_whole(user_rows, item_rows, own_users, *own_items.split(pos.numel()))
