"""A linear layer whose input is stored in half precision and converted block by block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast.ops.derivatives import is_transforming

BLOCK_ELEMENTS = 1 << 20  # size of a converted block: 4 MiB of float32


class _HalfLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = weight.new_empty(x.shape[0], weight.shape[0])
        for begin, end in _blocks(x):
            torch.addmm(bias, x[begin:end].to(weight.dtype), weight.mT, out=out[begin:end])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_weight = torch.zeros_like(weight)
        for begin, end in _blocks(x):
            d_weight.addmm_(grad[begin:end].mT, x[begin:end].to(grad.dtype))
        return None, d_weight, grad.sum(0)


def half_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Equals ``F.linear(x.to(weight.dtype), weight, bias)``, without saving a converted copy of x.

    The size of a block depends on the width of x only, so that memory limits do not change the result.

    Args:
        x: [N, k] of any floating dtype, constant.
        weight: [d, k].
        bias: [d], dtype of weight.

    Returns:
        [N, d], dtype of weight.

    Example:
        >>> x, weight, bias = torch.randn(6, 3).half(), torch.randn(4, 3), torch.randn(4)
        >>> torch.allclose(half_linear(x, weight, bias), F.linear(x.float(), weight, bias), atol=1e-6)
        True
    """
    # torch.export keeps only the forward pass of an autograd.Function, and the exported weights would have no gradient.
    # torch.func and forward mode do not support this autograd.Function.
    if is_transforming() or torch.compiler.is_exporting():
        return F.linear(x.to(weight.dtype), weight, bias)
    return _HalfLinear.apply(x, weight, bias)


def apply_linear(fc: nn.Linear, x: Tensor) -> Tensor:
    """Equals ``fc(x.to(fc.weight.dtype))``, as `half_linear` if x has another dtype."""
    return fc(x) if x.dtype == fc.weight.dtype else half_linear(x, fc.weight, fc.bias)


def _blocks(x: Tensor) -> list[tuple[int, int]]:
    rows = max(1, BLOCK_ELEMENTS // max(1, x.shape[1]))
    return [(begin, min(begin + rows, x.shape[0])) for begin in range(0, x.shape[0], rows)]
