"""Initial values of tables that are divided among ranks: each rank's part of what one process would draw.

Every rank draws all values from torch's CPU generator, a block at a time, and keeps its own. The values, and the state
of the generator afterwards, are those of one process, and a rank needs memory for its part and one block only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .ranks import Ranks

BLOCK = 1 << 20  # values that are drawn at once


def xavier_uniform(rows: int, columns: int, ranks: Ranks) -> Tensor:
    """Equals ``ranks.mine(nn.init.xavier_uniform_(torch.empty(rows, columns)))``: [n_p, columns] on the CPU.

    Example:
        >>> xavier_uniform(7, 2, Ranks(rank=1, size=3)).shape
        torch.Size([3, 2])
    """
    if ranks.size == 1:
        return nn.init.xavier_uniform_(torch.empty(rows, columns))
    bound = math.sqrt(3.0) * math.sqrt(2.0 / (rows + columns))
    return _own_rows(rows, columns, ranks, lambda block: block.uniform_(-bound, bound))


def kaiming_normal_columns(rows: int, columns: int, ranks: Ranks) -> Tensor:
    """Equals this rank's columns of ``nn.init.kaiming_normal_(torch.empty(columns, rows).mT)``, [rows, n_p] on the CPU:
    the first weight of a discriminator of `columns` items, whose transpose is contiguous.

    Example:
        >>> kaiming_normal_columns(4, 7, Ranks(rank=1, size=3)).shape
        torch.Size([4, 3])
    """
    if ranks.size == 1 or rows == 1:  # the transpose of one row is contiguous, and torch draws it in another way
        return ranks.mine(nn.init.kaiming_normal_(torch.empty(columns, rows).mT).mT).clone().mT
    deviation = math.sqrt(2.0) / math.sqrt(columns)
    return _own_rows(columns, rows, ranks, lambda block: block.mT.normal_(0, deviation)).mT


def skip_uniform(count: int) -> None:
    """Draw and drop `count` values, as ``torch.empty(count).uniform_()`` does.

    Example:
        >>> state = torch.get_rng_state()
        >>> skip_uniform(1000)
        >>> bool((torch.get_rng_state() == state).all())
        False
    """
    for first in range(0, count, BLOCK):
        torch.empty(min(BLOCK, count - first)).uniform_()


def _own_rows(rows: int, columns: int, ranks: Ranks, draw: Callable[[Tensor], Tensor]) -> Tensor:
    first, last = ranks.span(rows)
    own = torch.empty(last - first, columns)
    for start, end in _blocks(rows, columns):
        block = torch.empty(end - start, columns)
        draw(block)
        begin, stop = max(first, start), min(last, end)
        if begin < stop:
            own[begin - first : stop - first] = block[begin - start : stop - start]
    return own


def _blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of blocks of rows, each of at least two rows if there are as many: torch draws normal values of
    a contiguous tensor, as the transpose of a single row is, in another order."""
    each, start = max(2, BLOCK // columns), 0
    while start < rows:
        end = rows if rows - start < each + 2 else start + each
        yield start, end
        start = end
