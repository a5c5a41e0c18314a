"""A linear layer on an input that is stored in half precision and converted a block of rows at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast.ops.derivatives import is_transforming

BLOCK_ELEMENTS = 1 << 20  # of an input block in the weight's precision: 4 MiB of float32


class _HalfLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out = weight.new_empty(x.shape[0], weight.shape[0])
        for begin, end in _blocks(x):
            torch.addmm(bias, x[begin:end].to(weight.dtype), weight.mT, out=out[begin:end])
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        d_weight = torch.zeros_like(weight)
        for begin, end in _blocks(x):
            d_weight.addmm_(grad[begin:end].mT, x[begin:end].to(grad.dtype))
        return None, d_weight, grad.sum(0)


def half_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Equals ``F.linear(x.to(weight.dtype), weight, bias)``, of which autograd saves x itself, not the converted copy.

    x: [N, k] of any floating dtype, constant; weight: [d, k]; bias: [d], dtype of weight. Returns [N, d]. Blocks are
    cut by x's width alone, so memory limits do not change a result. Within torch.func, forward mode and torch.export it
    is that expression itself.
    """
    # torch.export keeps the forward alone of an autograd.Function: the program's weights would have no gradient.
    if is_transforming() or torch.compiler.is_exporting():
        return F.linear(x.to(weight.dtype), weight, bias)
    return _HalfLinear.apply(x, weight, bias)


def _blocks(x: Tensor) -> list[tuple[int, int]]:
    rows = max(1, BLOCK_ELEMENTS // max(1, x.shape[1]))
    return [(begin, min(begin + rows, x.shape[0])) for begin in range(0, x.shape[0], rows)]
