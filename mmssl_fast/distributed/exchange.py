"""Exchanges of rows and columns that are under way while the caller computes something else.

`start_rows_to_columns` and `start_columns_to_rows` equal the functions without "start", but return at once; `wait` on
their result gives the tensor. The argument must not be changed in place before. In backward, the gradient is sent when
the backward pass reaches the `wait`, and is waited for when it reaches the start. Autograd visits operations in reverse
order, so what is computed between the two in forward is also computed between them in backward. The rules are those of
collectives.py; all ranks must start and wait in the same order.

Waiting for one tensor while the next is computed is the usual way to hide communication, such as the prefetching of
FSDP (Zhao et al., VLDB 2023, section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .collectives import Transfer, check_columns, send_columns, send_rows
from .ranks import Ranks
from .transfers import check_rows


class Exchange:
    """An exchange that is under way, from `start_rows_to_columns` or `start_columns_to_rows`.

    Between the two autograd functions of an exchange there is an empty tensor, because the sizes of what is sent and
    received differ.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> exchange: Exchange = start_rows_to_columns(torch.ones(3, 4), 3, start())
        >>> other = torch.ones(3, 4).square()  # while rows and columns are exchanged
        >>> (exchange.wait() + other).sum()
        tensor(24.)
    """

    def __init__(self, ready: Tensor | None = None) -> None:
        self._ready, self._token = ready, ready
        self.transfer: Transfer | None = None  # forward
        self.back: Transfer | None = None  # backward
        self.send_back: Callable[[Tensor], Transfer] | None = None

    def wait(self) -> Tensor:
        """The result. To be called once."""
        return self._ready if self._ready is not None else _Wait.apply(self._token, self)


def start_rows_to_columns(x: Tensor, n: int, ranks: Ranks) -> Exchange:
    """Equals `rows_to_columns`, with ``.wait()`` for the result. Differentiable once.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> exchange = start_rows_to_columns(torch.ones(3, 4), 3, start())
        >>> exchange.wait().shape
        torch.Size([3, 4])
    """
    if ranks.size == 1:
        return Exchange(x)
    check_rows("start_rows_to_columns", x, n, ranks)
    return Exchange(x) if ranks.columns.size == 1 else _started(x, (send_rows, n), (send_columns, x.shape[1], n), ranks)


def start_columns_to_rows(y: Tensor, columns: int, ranks: Ranks, n: int | None = None) -> Exchange:
    """Equals `columns_to_rows`, with ``.wait()`` for the result. Differentiable once.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> exchange = start_columns_to_rows(torch.ones(3, 4), 4, start())
        >>> exchange.wait().shape
        torch.Size([3, 4])
    """
    if ranks.size == 1:
        return Exchange(y)
    n = check_columns("start_columns_to_rows", y, columns, ranks, n)
    return Exchange(y) if ranks.columns.size == 1 else _started(y, (send_columns, columns, n), (send_rows, n), ranks)


def _started(x: Tensor, forth: tuple[Any, ...], back: tuple[Any, ...], ranks: Ranks) -> Exchange:
    exchange = Exchange()
    exchange._token = _Start.apply(x, exchange, forth, back, ranks)
    return exchange


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: Exchange, forth: Any, back: Any, ranks: Ranks) -> Tensor:
        send, *sizes = forth
        ctx.exchange, exchange.transfer = exchange, send(x, *sizes, ranks)
        exchange.send_back = lambda grad: back[0](grad, *back[1:], ranks)
        return x.new_empty(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        back, ctx.exchange.back = ctx.exchange.back, None
        return back.wait(), None, None, None, None


class _Wait(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token: Tensor, exchange: Exchange) -> Tensor:
        transfer, exchange.transfer = exchange.transfer, None
        ctx.exchange = exchange
        return transfer.wait()  # type: ignore[union-attr]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.exchange.back = ctx.exchange.send_back(grad)
        return grad.new_empty(0), None
