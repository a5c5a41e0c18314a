"""Parts of the losses of sampled triples: margins, and sums of squares of gathered rows.

Indexing a table creates a gradient of the whole table for each index, and autograd adds them. These functions create
one gradient per table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def bpr_margins(users_emb: Tensor, items_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Equals ``(users_emb[users] * (items_emb[pos] - items_emb[neg])).sum(1)``.

    Ranking losses of triples are functions of these margins: BPR is ``F.softplus(-margins).mean()``.

    Args:
        users_emb [U, d], items_emb [I, d]: one dtype, float32 or float64.
        users, pos, neg: int64 [B].

    Returns:
        [B]; once differentiable.

    Example:
        >>> import torch
        >>> zero = torch.tensor([0])
        >>> bpr_margins(torch.tensor([[2.0]]), torch.tensor([[3.0], [1.0]]), zero, zero, zero + 1)
        tensor([4.])
    """
    return _Margins.apply(users_emb, items_emb, users, pos, neg)


def row_squares(table: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
    """Equals ``tuple(table[rows].square().sum() for rows in ids)``.

    Args:
        table: [N, d], float32 or float64.
        ids: int64 [B] each. A repeated row counts repeatedly.

    Returns:
        A scalar for each of `ids`; once differentiable.

    Example:
        >>> import torch
        >>> row_squares(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]), torch.tensor([0]))
        (tensor(8.), tensor(1.))
    """
    return _Squares.apply(table, *ids)


class _Margins(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users_emb: Tensor, items_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        ctx.save_for_backward(users_emb, items_emb, users, pos, neg)
        gap = items_emb.index_select(0, pos).sub_(items_emb.index_select(0, neg))
        return gap.mul_(users_emb.index_select(0, users)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        users_emb, items_emb, users, pos, neg = ctx.saved_tensors
        slope = grad[:, None]
        gap = items_emb.index_select(0, pos).sub_(items_emb.index_select(0, neg)).mul_(slope)
        rows = users_emb.index_select(0, users).mul_(slope)
        users_grad = torch.zeros_like(users_emb).index_add_(0, users, gap)
        items_grad = torch.zeros_like(items_emb).index_add_(0, pos, rows).index_add_(0, neg, rows, alpha=-1)
        return users_grad, items_grad, None, None, None


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(table, *ids)
        return tuple(table.index_select(0, rows).square_().sum() for rows in ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        table, *ids = ctx.saved_tensors
        total = torch.zeros_like(table)
        for rows, grad in zip(ids, grads, strict=True):
            total.index_add_(0, rows, table.index_select(0, rows).mul_(2 * grad))
        return total, *(None,) * len(ids)
