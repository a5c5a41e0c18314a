"""A function of table rows, computed in blocks of rows and computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ROWS = 1 << 14


class _InRowBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], n_tables: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.n_tables = function, n_tables
        ctx.save_for_backward(*tensors)
        tables, shared = tensors[:n_tables], tensors[n_tables:]
        out = None
        for begin, end in _blocks(tables[0]):
            block = function(*(table[begin:end] for table in tables), *shared)
            out = block.new_empty(tables[0].shape[0], *block.shape[1:]) if out is None else out
            out[begin:end] = block
        return function(*tensors) if out is None else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        n_tables, tensors, needed = ctx.n_tables, ctx.saved_tensors, ctx.needs_input_grad[2:]
        grads = [torch.zeros_like(x) if need else None for x, need in zip(tensors, needed, strict=True)]
        for begin, end in _blocks(tensors[0]):
            leaves = [x[begin:end] if k < n_tables else x for k, x in enumerate(tensors)]
            leaves = [x.detach().requires_grad_(need) for x, need in zip(leaves, needed, strict=True)]
            with torch.enable_grad():
                block = ctx.function(*leaves)
            wanted = [k for k, need in enumerate(needed) if need]
            found = torch.autograd.grad(block, [leaves[k] for k in wanted], grad[begin:end])
            for k, part in zip(wanted, found, strict=True):
                target: Any = grads[k]
                if k < n_tables:
                    target[begin:end] = part
                else:
                    target += part
        return None, None, *grads


def in_row_blocks(function: Callable[..., Tensor], tables: Sequence[Tensor], shared: Sequence[Tensor] = ()) -> Tensor:
    """Equals ``function(*tables, *shared)`` for a function that computes every row of its result from the same row of
    the tables, without keeping what it computes in between.

    It is called for BLOCK_ROWS rows at a time, in the forward pass without autograd, and again in the backward pass.
    Only the tables and the result are as long as the tables. The gradients of `shared` are sums over the blocks, so
    that they may round differently. Differentiable once. The function must not draw random numbers.

    Args:
        function: tensors [n, …], one for each table, and those of `shared` → [n, …], of any number of rows n.
        tables: at least one tensor [N, …].
        shared: other tensors, such as weights.

    Example:
        >>> x, weight = torch.randn(5, 3), torch.randn(3, 4)
        >>> torch.allclose(in_row_blocks(torch.matmul, [x], [weight]), x @ weight)
        True
    """
    return _InRowBlocks.apply(function, len(tables), *tables, *shared)


def _blocks(table: Tensor) -> list[tuple[int, int]]:
    return [(begin, min(begin + BLOCK_ROWS, len(table))) for begin in range(0, len(table), BLOCK_ROWS)]
