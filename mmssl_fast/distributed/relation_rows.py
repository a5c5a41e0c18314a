"""Relation rows for several ranks: each rank has the columns of its items, and all rows of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..relation import RelationRows
from ..relation.algebra.relation_linear import inverse_or_zero
from .collectives import copy_to_ranks, reduce_from_ranks
from .ranks import Ranks


def relation_linear(rows: RelationRows | Tensor, weight: Tensor, ranks: Ranks, bias: Tensor | None = None) -> Tensor:
    """Equals ``F.linear(torch.cat(every rank's rows, 1), torch.cat(every rank's weight, 1), bias)``, the first layer of
    the discriminator (equation 4), up to rounding.

    Each rank computes the product of its columns. A rank receives 2·B·H·s·(P − 1)/P bytes, and nothing in backward.

    Args:
        rows: RelationRows or matrix [B, I_p], this rank's columns. What the rows are made of and is equal on all ranks,
            such as the features of the users, must pass `copy_to_ranks`.
        weight: [H, I_p], this rank's columns.
        ranks: the processes.
        bias: [H], the same on every rank, or None.

    Returns:
        [B, H], bit-identical on every rank.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> rows, weight = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8)), torch.randn(4, 5)
        >>> torch.allclose(relation_linear(rows, weight, start()), F.linear(rows.dense(), weight), atol=1e-5)
        True
    """
    if ranks.size == 1:
        return F.linear(rows, weight, bias)  # type: ignore[arg-type]  # RelationRows implement F.linear
    z = reduce_from_ranks(F.linear(rows, weight).to(weight.dtype), ranks)  # type: ignore[arg-type]
    return z if bias is None else z + bias


def normalize_rows(rows: RelationRows, ranks: Ranks) -> RelationRows:
    """Equals this rank's columns of ``F.normalize(torch.cat(every rank's rows, 1), dim=1, eps=0)``, up to rounding.

    A zero row stays zero and has gradient 0. A rank receives 16·B·(P − 1)/P bytes, and 2·B·s·(P − 1)/P in backward.

    Args:
        rows: RelationRows [B, I_p], this rank's columns, made as for `relation_linear`.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> rows = normalize_rows(RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8)), start())
        >>> torch.allclose(rows.dense().norm(dim=1), torch.ones(2))
        True
    """
    if ranks.size == 1:
        return rows.normalize()
    norm = norm_of_ranks(rows.row_norm(), ranks)
    return rows * copy_to_ranks(inverse_or_zero(norm).to(rows.dtype), ranks)[:, None]


def norm_of_ranks(norm: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``torch.stack(every rank's norm).norm(dim=0)`` in float64, with gradient 0 where it is 0.

    Args:
        norm: [B], the lengths of this rank's columns of B rows.
        ranks: the processes.
    """
    square = reduce_from_ranks(norm.double().square(), ranks)
    positive = ~(square <= 0)  # also true for NaN
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
