"""Communication between ranks without a gradient: sums, maxima, texts, whole tables, broadcast blocks.

The rules and symbols are those of collectives.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .ranks import Ranks


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
        return block, dist.broadcast(block, group=ranks.process_group, group_src=owner, async_op=True)

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


def exchange_parts(parts: list[Tensor], sizes: list[int], ranks: Ranks) -> list[Tensor]:
    """Equals ``[part[p] for part in every rank's parts]`` on rank p: parts[q] is sent to rank q. No gradient.

    A rank receives the bytes of the parts of the other ranks.

    Args:
        parts: for each rank what it gets, tensors with one dimension, of one dtype and device.
        sizes: the lengths of the parts that this rank gets from each.
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> exchange_parts([torch.tensor([2, 5])], [2], start())
        [tensor([2, 5])]
    """
    if ranks.size == 1:
        return parts
    sent = torch.cat(parts)
    found = sent.new_empty(sum(sizes))
    dist.all_to_all_single(found, sent, sizes, [len(part) for part in parts], group=ranks.process_group)
    ranks.received += (len(found) - sizes[ranks.rank]) * found.element_size()
    return list(found.split(sizes))


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
            dist.broadcast(buffer, group=ranks.process_group, group_src=rank)
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
    dist.all_reduce(total, op, group=ranks.process_group)
    ranks.received += 2 * total.nbytes * (ranks.size - 1) // ranks.size
    return total
