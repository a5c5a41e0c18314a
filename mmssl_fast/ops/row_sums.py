"""row_sums: the sum of the values in every row of a CSR block."""

from typing import Any

import torch
from torch import Tensor

from .spmm import spmm


def row_sums(crow: Tensor, value: Tensor) -> Tensor:
    """Equals ``torch.segment_reduce(value, "sum", offsets=crow, initial=0)``.

    The entries of a row are added in their order. Differentiable any number of times.

    Args:
        crow: int64 [B + 1], offsets from 0 to at most nnz. Entries from crow[-1] on are padding and not read.
        value: float32 or float64 [nnz].

    Returns:
        [B], dtype of value.

    Example:
        >>> row_sums(torch.tensor([0, 2, 2, 3]), torch.tensor([1.0, 2.0, 5.0]))
        tensor([3., 0., 5.])
    """
    return _RowSums.apply(crow, value)


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, crow: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(crow)
        ctx.nnz = value.shape[0]
        return spmm(crow, torch.zeros_like(value, dtype=torch.int32), value, value.new_ones(1, 1)).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (crow,) = ctx.saved_tensors
        entry = torch.arange(ctx.nnz, device=crow.device)
        row = torch.searchsorted(crow, entry, right=True) - 1
        padding = row >= grad.shape[0]
        return None, grad[row.masked_fill(padding, 0)].masked_fill(padding, 0)
