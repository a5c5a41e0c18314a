"""row_sums: sums over the rows of a CSR block's values."""

from typing import Any

import torch
from torch import Tensor

from .spmm import spmm


def row_sums(crow: Tensor, value: Tensor) -> Tensor:
    """Equals ``torch.segment_reduce(value, "sum", offsets=crow, initial=0)``: [B], each row's entries added in order.

    Differentiable any number of times. The block may be padded: entries from crow[-1] on are not read.

    Args:
        crow: int64 [B + 1], offsets from 0 to at most nnz.
        value: float32 or float64 [nnz].
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
        beyond = row >= grad.shape[0]  # padding
        return None, grad[row.masked_fill(beyond, 0)].masked_fill(beyond, 0)
