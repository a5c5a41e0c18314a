"""Communication between ranks with a gradient: exchanging rows and columns, sums, gathered rows.

Every function is an autograd function; transfers.py has those without a gradient. With one rank, each function is the
identity or the operation for one process: there is no process group, no collective and no copy. All ranks must call the
same functions in the same order, in forward and therefore in backward. Sizes may differ between ranks, but a call must
not depend on a condition that does.

Symbols: n_p and D_p are the numbers of rows and columns that a rank has of n rows and D columns (`Ranks.span`), s is
the size of an element in bytes, P the number of ranks. Each docstring states what the function adds to
`Ranks.received`.

With G groups (`start`), rows and columns are exchanged within each group: "columns [n, D_p]" are then those of the n_g
rows of the group, [n_g, D_p] with D_p of D columns for each of the C = P/G ranks of the group, and a rank receives
n·D·s·(C − 1)/(P·C) bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .ranks import Ranks
from .transfers import all_max, all_sum, check_rows

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}  # integers of the same size have exact sums


def rows_to_columns(x: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Equals ``torch.cat(every rank's x)[:, first:last]`` for this rank's columns: rows [n_p, D] → columns [n, D_p].

    One all-to-all; backward is `columns_to_rows`. A rank receives n·D·s·(P − 1)/P² bytes.

    Args:
        x: [n_p, D], this rank's rows of a table [n, D].
        n: rows of the whole table.
        ranks: the processes.

    Raises:
        ValueError: if the number of rows of x is not that of this rank.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> rows_to_columns(torch.ones(3, 4), 3, start()).shape
        torch.Size([3, 4])
    """
    if ranks.size == 1:
        return x
    check_rows("rows_to_columns", x, n, ranks)
    return x if ranks.columns.size == 1 else _RowsToColumns.apply(x, n, ranks)


def columns_to_rows(y: Tensor, columns: int, ranks: Ranks, n: int | None = None) -> Tensor:
    """Equals ``torch.cat(every rank's y, 1)[first:last]`` for this rank's rows: columns [n, D_p] → rows [n_p, D].

    One all-to-all; backward is `rows_to_columns`. A rank receives n·D·s·(P − 1)/P² bytes.

    Args:
        y: [n, D_p], this rank's columns of a table [n, D].
        columns: D, the columns of the whole table.
        ranks: the processes.
        n: rows of the whole table. Required with groups, where y has those of a group only.

    Raises:
        ValueError: if the number of columns of y, or with groups of rows, is not that of this rank.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> columns_to_rows(torch.ones(3, 4), 4, start()).shape
        torch.Size([3, 4])
    """
    if ranks.size == 1:
        return y
    n = check_columns("columns_to_rows", y, columns, ranks, n)
    return y if ranks.columns.size == 1 else _ColumnsToRows.apply(y, columns, n, ranks)


def check_columns(op: str, y: Tensor, columns: int, ranks: Ranks, n: int | None) -> int:
    """n, the rows of the whole table, by default those of y. Raise ValueError if the columns or rows of y are not those
    of this rank."""
    own = ranks.columns.sizes(columns)[ranks.columns.rank]
    if y.ndim != 2 or y.shape[1] != own:
        raise ValueError(f"{op}: y is {tuple(y.shape)}, rank {ranks.rank} owns {own} of {columns} columns")
    if n is None and ranks.groups.size > 1:
        raise ValueError(f"{op}: n, the number of rows of the whole table, is required with groups")
    n = y.shape[0] if n is None else n
    rows = ranks.groups.sizes(n)[ranks.groups.rank]
    if y.shape[0] != rows:
        raise ValueError(f"{op}: y has {y.shape[0]} rows, the group of rank {ranks.rank} owns {rows} of {n}")
    return n


class Transfer:
    """An all-to-all that is under way, from `send_rows` or `send_columns`. `wait` returns what has been received."""

    def __init__(
        self, sent: Tensor, takes: list[int], gives: list[int], ranks: Ranks, join: Callable[..., Tensor]
    ) -> None:
        self._dtype, self._join, self._takes = sent.dtype, join, takes
        sent = sent.detach()
        if ranks.wire is not None and sent.dtype == torch.float32:  # the own part as well, whatever the number of ranks
            sent = sent.to(ranks.wire)
        self._sent, self._arrived = sent, sent.new_empty(sum(takes))
        group = ranks.columns.process_group
        self._work = dist.all_to_all_single(self._arrived, sent, takes, gives, group=group, async_op=True)
        ranks.received += (sum(takes) - takes[ranks.columns.rank]) * sent.element_size()

    def wait(self) -> Tensor:
        self._work.wait()
        received = self._join(self._arrived.to(self._dtype), self._takes)
        del self._sent, self._arrived
        return received


def send_rows(x: Tensor, n: int, ranks: Ranks) -> Transfer:
    """Start `rows_to_columns`, without a gradient."""
    widths, heights = ranks.columns.sizes(x.shape[1]), ranks.sizes_in_group(n)
    width = widths[ranks.columns.rank]
    send = torch.cat([part.flatten() for part in x.split(widths, 1)])
    takes, gives = [h * width for h in heights], [x.shape[0] * w for w in widths]
    return Transfer(send, takes, gives, ranks, lambda received, _: received.view(sum(heights), width))


def send_columns(y: Tensor, columns: int, n: int, ranks: Ranks) -> Transfer:
    """Start `columns_to_rows`, without a gradient."""
    widths, heights = ranks.columns.sizes(columns), ranks.sizes_in_group(n)
    height = heights[ranks.columns.rank]

    def join(received: Tensor, takes: list[int]) -> Tensor:
        parts = zip(received.split(takes), widths, strict=True)
        return torch.cat([part.view(height, width) for part, width in parts], 1)

    takes, gives = [height * w for w in widths], [h * y.shape[1] for h in heights]
    return Transfer(y.contiguous().flatten(), takes, gives, ranks, join)


class _RowsToColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.columns, ctx.n, ctx.ranks = x.shape[1], n, ranks
        return send_rows(x, n, ranks).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ColumnsToRows.apply(grad, ctx.columns, ctx.n, ctx.ranks), None, None


class _ColumnsToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, columns: int, n: int, ranks: Ranks) -> Tensor:
        ctx.n, ctx.ranks = n, ranks
        return send_columns(y, columns, n, ranks).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _RowsToColumns.apply(grad, ctx.n, ctx.ranks), None, None, None


def reduce_from_ranks(x: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``sum(every rank's x)``, bit-identical on every rank: the end of a computation divided among ranks.

    The gradient of every term is the gradient of the sum, so backward is the identity. A rank receives
    2·size(x)·(P − 1)/P bytes. Together with `copy_to_ranks`, this is the pair of operators around a tensor-parallel
    region of Megatron-LM (Shoeybi et al., 2019, section 3).

    Args:
        x: this rank's term. All ranks have the same shape.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> reduce_from_ranks(torch.tensor([1.0, 2.0]), start())  # one rank, so the sum has one term
        tensor([1., 2.])
    """
    return x if ranks.size == 1 else _ReduceFromRanks.apply(x, ranks)


def copy_to_ranks(x: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``x``, a value that is equal on all ranks: the start of a computation that is divided among ranks.

    Each rank computes the gradient of its part only. Backward adds them, so that every rank has the complete gradient.
    Without this function, losses would be correct but gradients wrong. A rank receives nothing in forward, and
    2·size(x)·(P − 1)/P bytes in backward.

    Args:
        x: equal on all ranks, any shape.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> users = torch.ones(3, 8, requires_grad=True)
        >>> copy_to_ranks(users, start()).sum().backward()
        >>> users.grad.sum()
        tensor(24.)
    """
    return x if ranks.size == 1 else _CopyToRanks.apply(x, ranks)


class _ReduceFromRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return all_sum(x, ranks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _CopyToRanks.apply(grad, ctx.ranks), None


class _CopyToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _ReduceFromRanks.apply(grad, ctx.ranks), None


def gather_rows(x: Tensor, ids: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Equals ``whole[ids]`` to the bit, where ``whole = torch.cat(every rank's x)``: the same rows on every rank.

    All ranks must compute the same with the result, so that all have the same gradient. In backward, each rank takes
    its own rows from that gradient, without communication. A rank receives 2·B·d·s·(P − 1)/P bytes.

    Args:
        x: [n_p, d], this rank's rows.
        ids: int64 [B], rows of the whole table, the same on every rank. The gradients of repeated ids are added, on
            CUDA in no fixed order.
        n: rows of the whole table.
        ranks: the processes.

    Returns:
        [B, d], dtype of x.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> gather_rows(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0]), 3, start()).flatten()
        tensor([3., 1.])
    """
    if ranks.size == 1:
        return x[ids]
    check_rows("gather_rows", x, n, ranks)
    return _GatherRows.apply(x, ids, n, ranks)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ids: Tensor, n: int, ranks: Ranks) -> Tensor:
        first, last = ranks.span(n)
        slots = ((ids >= first) & (ids < last)).nonzero().flatten()
        own = ids[slots] - first
        ctx.save_for_backward(slots, own)
        ctx.rows = x.shape[0]
        rows = x.new_zeros(ids.shape[0], *x.shape[1:])
        rows[slots] = x.detach()[own]
        bits = _BITS.get(x.dtype)  # as integers, −0 and NaN stay as they are
        return all_sum(rows, ranks) if bits is None else all_sum(rows.view(bits), ranks).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        slots, own = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_add_(0, own, grad[slots]), None, None, None


def column_softmax(x: Tensor, ranks: Ranks) -> Tensor:
    """Equals this rank's columns of ``torch.cat(every rank's x, 1).softmax(1)``, without gathering the columns.

    A rank receives 4·n·s·(P − 1)/P bytes for the maximum and the sum of every row, and 2·n·s·(P − 1)/P in backward for
    one inner product per row. With groups, these are 4·n_g·s·(C − 1)/C and half of that, for the rows of the group.

    Args:
        x: [n, D_p], this rank's columns. D_p may be 0.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> column_softmax(torch.zeros(1, 4), start())
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return x.softmax(1) if ranks.columns.size == 1 else _ColumnSoftmax.apply(x, ranks.columns)


class _ColumnSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        top = x.amax(1, keepdim=True) if x.shape[1] else x.new_full((x.shape[0], 1), -torch.inf)
        exps = (x - all_max(top, ranks)).exp()
        y = exps / all_sum(exps.sum(1, keepdim=True), ranks)
        ctx.save_for_backward(y)
        ctx.ranks = ranks
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return y * (grad - all_sum((grad * y).sum(1, keepdim=True), ctx.ranks)), None


def merge_logsumexp(lse: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``torch.stack(every rank's lse).logsumexp(0)``: the log-sum-exp of rows with entries on several ranks.

    Backward is ``grad * exp(part − whole)``, without communication. A rank receives 4·B·s·(P − 1)/P bytes.

    Args:
        lse: [B], the log-sum-exp of this rank's entries of each row; −inf if it has none.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> merge_logsumexp(torch.tensor([0.5, -torch.inf]), start())
        tensor([0.5000,   -inf])
    """
    return lse if ranks.size == 1 else _MergeLogSumExp.apply(lse, ranks)


class _MergeLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lse: Tensor, ranks: Ranks) -> Tensor:
        top = all_max(lse, ranks)
        shift = torch.where(top.isfinite(), top, 0)  # −inf on all ranks: −inf, not NaN
        whole = all_sum((lse - shift).exp(), ranks).log() + shift
        ctx.save_for_backward(lse, whole)
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        lse, whole = ctx.saved_tensors
        return torch.where(lse == -torch.inf, 0, grad * (lse - whole).exp()), None
