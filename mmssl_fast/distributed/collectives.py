"""Communication between ranks: exchanging rows and columns, sums, gathered rows, broadcast blocks.

Functions with a gradient are autograd functions. With one rank, each function is the identity or the operation for one
process: there is no process group, no collective and no copy. All ranks must call the same functions in the same order,
in forward and therefore in backward. Sizes may differ between ranks, but a call must not depend on a condition that
does.

Symbols: n_p and D_p are the numbers of rows and columns that a rank has of n rows and D columns (`Ranks.span`), s is
the size of an element in bytes, P the number of ranks. Each docstring states what the function adds to
`Ranks.received`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .ranks import Ranks

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
    return _RowsToColumns.apply(x, n, ranks)


def columns_to_rows(y: Tensor, columns: int, ranks: Ranks) -> Tensor:
    """Equals ``torch.cat(every rank's y, 1)[first:last]`` for this rank's rows: columns [n, D_p] → rows [n_p, D].

    One all-to-all; backward is `rows_to_columns`. A rank receives n·D·s·(P − 1)/P² bytes.

    Args:
        y: [n, D_p], this rank's columns of a table [n, D].
        columns: D, the columns of the whole table.
        ranks: the processes.

    Raises:
        ValueError: if the number of columns of y is not that of this rank.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> columns_to_rows(torch.ones(3, 4), 4, start()).shape
        torch.Size([3, 4])
    """
    if ranks.size == 1:
        return y
    if y.ndim != 2 or y.shape[1] != (own := ranks.sizes(columns)[ranks.rank]):
        raise ValueError(f"columns_to_rows: y is {tuple(y.shape)}, rank {ranks.rank} owns {own} of {columns} columns")
    return _ColumnsToRows.apply(y, columns, ranks)


class _RowsToColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n: int, ranks: Ranks) -> Tensor:
        ctx.columns, ctx.ranks = x.shape[1], ranks
        widths, heights = ranks.sizes(x.shape[1]), ranks.sizes(n)
        width = widths[ranks.rank]
        send = torch.cat([part.flatten() for part in x.split(widths, 1)])
        received = x.new_empty(n * width)
        _all_to_all(received, send, [h * width for h in heights], [x.shape[0] * w for w in widths], ranks)
        return received.view(n, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ColumnsToRows.apply(grad, ctx.columns, ctx.ranks), None, None


class _ColumnsToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, columns: int, ranks: Ranks) -> Tensor:
        ctx.n, ctx.ranks = y.shape[0], ranks
        widths, heights = ranks.sizes(columns), ranks.sizes(y.shape[0])
        height = heights[ranks.rank]
        received = y.new_empty(height * columns)
        takes = [height * w for w in widths]
        _all_to_all(received, y.contiguous().flatten(), takes, [h * y.shape[1] for h in heights], ranks)
        parts = received.split(takes)
        return torch.cat([part.view(height, w) for part, w in zip(parts, widths, strict=True)], 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _RowsToColumns.apply(grad, ctx.n, ctx.ranks), None, None


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
    one inner product per row.

    Args:
        x: [n, D_p], this rank's columns. D_p may be 0.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> column_softmax(torch.zeros(1, 4), start())
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return x.softmax(1) if ranks.size == 1 else _ColumnSoftmax.apply(x, ranks)


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


def broadcast_blocks(x: Tensor, n: int, ranks: Ranks) -> Iterator[tuple[int, Tensor]]:
    """Equals ``((first, whole[first:last]) for first, last in ranks.spans(n))``: the rows of one rank after another.

    The next block is sent while the caller works on the current one. All ranks must read all blocks. A rank receives
    n·d·s·(P − 1)/P bytes and holds two blocks. No gradient.

    Args:
        x: [n_p, …], this rank's rows of a table of n.
        n: rows of the whole table.
        ranks: the processes.

    Yields:
        (first row, block), except for blocks without rows. With one rank: (0, x).

    Example:
        >>> from mmssl_fast.distributed import start
        >>> [(first, block.shape) for first, block in broadcast_blocks(torch.ones(5, 2), 5, start())]
        [(0, torch.Size([5, 2]))]
    """
    x = x.detach()
    if ranks.size == 1:
        if x.shape[0]:
            yield 0, x
        return
    check_rows("broadcast_blocks", x, n, ranks)
    spans = [(owner, *span) for owner, span in enumerate(ranks.spans(n)) if span[0] < span[1]]

    def send(owner: int, first: int, last: int) -> tuple[Tensor, Any]:
        block = x.contiguous() if owner == ranks.rank else x.new_empty(last - first, *x.shape[1:])
        ranks.received += 0 if owner == ranks.rank else block.nbytes
        return block, dist.broadcast(block, owner, async_op=True)

    under_way = send(*spans[0]) if spans else None
    for at, (_, first, _) in enumerate(spans):
        block, work = under_way  # type: ignore[misc]
        under_way = send(*spans[at + 1]) if at + 1 < len(spans) else None
        work.wait()
        yield first, block


def gather_whole(x: Tensor, n: int, ranks: Ranks) -> Tensor:
    """Equals ``torch.cat(every rank's x)``: the whole table [n, …] on every rank, for small tables. No gradient.

    A rank receives size(x)·(P − 1) bytes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> gather_whole(torch.ones(3, 2), 3, start()).shape
        torch.Size([3, 2])
    """
    if ranks.size == 1:
        return x.detach()
    whole = x.new_empty(n, *x.shape[1:])
    for first, block in broadcast_blocks(x, n, ranks):
        whole[first : first + block.shape[0]] = block
    return whole


def merge_topk(values: Tensor, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Equals ``topk(k)`` of the candidates of every row: best first, the lower item first among equal values.

    There is no communication.

    Args:
        values [B, c], items int64 [B, c]: candidates in any order, distinct within a row. A missing one is item −1 with
            value −inf.
        k: length of the result.

    Returns:
        values [B, m] and items [B, m], m = min(k, c).

    Example:
        >>> merge_topk(torch.tensor([[3., 1., 3., 2.]]), torch.tensor([[7, 1, 0, 9]]), 3)
        (tensor([[3., 3., 2.]]), tensor([[0, 7, 9]]))
    """
    by_item = torch.where(items < 0, torch.iinfo(torch.int64).max, items).argsort(dim=1)
    values, items = values.gather(1, by_item), items.gather(1, by_item)
    best = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, best), items.gather(1, best)


def reduce_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Replace the .grad of replicated parameters by its sum over all ranks, in one all-reduce per dtype.

    A parameter without a gradient on one rank must have none on any. A rank receives 2·(P − 1)/P times the bytes of the
    gradients.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> bias = torch.zeros(2, requires_grad=True)
        >>> bias.sum().backward()
        >>> reduce_gradients([bias], start())
        >>> bias.grad
        tensor([1., 1.])
    """
    if ranks.size == 1:
        return
    gradients: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            gradients.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for group in gradients.values():
        flat = all_sum(torch.cat([one.flatten() for one in group]), ranks)
        for one, part in zip(group, flat.split([one.numel() for one in group]), strict=True):
            one.copy_(part.view_as(one))


def all_sum(x: Tensor, ranks: Ranks) -> Tensor:
    """Equals ``sum(every rank's x)``: a new tensor without a gradient. With one rank: x itself.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> all_sum(torch.tensor(3), start())
        tensor(3)
    """
    return _all_reduce(x, dist.ReduceOp.SUM, ranks) if ranks.size > 1 else x


def all_max(x: Tensor, ranks: Ranks) -> Tensor:
    """The elementwise maximum over every rank's x: a new tensor without a gradient. With one rank: x itself.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> all_max(torch.tensor(3), start())
        tensor(3)
    """
    return _all_reduce(x, dist.ReduceOp.MAX, ranks) if ranks.size > 1 else x


def all_texts(text: str, ranks: Ranks) -> list[str]:
    """The texts of all ranks, in the order of the ranks, on every rank.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> all_texts("ready", start())
        ['ready']
    """
    if ranks.size == 1:
        return [text]
    own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
    length = len(text.encode())
    lengths = torch.zeros(ranks.size, dtype=torch.int64)
    lengths[ranks.rank] = length
    texts = []
    for rank, size in enumerate(all_sum(lengths, ranks).tolist()):
        buffer = own[:length].clone() if rank == ranks.rank else torch.empty(size, dtype=torch.uint8)
        if size:
            dist.broadcast(buffer, rank)
        ranks.received += 0 if rank == ranks.rank else size
        texts.append(buffer.numpy().tobytes().decode())
    return texts


def check_rows(op: str, x: Tensor, n: int, ranks: Ranks) -> None:
    """Raise ValueError if the number of rows of x is not that of this rank."""
    own = ranks.sizes(n)[ranks.rank]
    if x.shape[0] != own:
        raise ValueError(f"{op}: x has {x.shape[0]} rows, rank {ranks.rank} of {ranks.size} owns {own} of {n}")


def _all_reduce(x: Tensor, op: Any, ranks: Ranks) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, op)
    ranks.received += 2 * total.nbytes * (ranks.size - 1) // ranks.size
    return total


def _all_to_all(received: Tensor, sent: Tensor, takes: list[int], gives: list[int], ranks: Ranks) -> None:
    sent, arrived = sent.detach(), received
    if ranks.wire is not None and sent.dtype == torch.float32:  # the own part as well, whatever the number of ranks
        sent, arrived = sent.to(ranks.wire), received.new_empty(received.shape, dtype=ranks.wire)
    dist.all_to_all_single(arrived, sent, takes, gives)
    ranks.received += (received.numel() - takes[ranks.rank]) * arrived.element_size()
    if arrived is not received:
        received.copy_(arrived)
