"""propagate and lightgcn for several ranks: each rank propagates some of the columns over the graph of its group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import NORMS, InteractionGraph
from ..ops.propagate import lightgcn as lightgcn_whole
from ..ops.propagate import propagate as propagate_whole
from ..ops.spmm import spmm_add_
from .collectives import columns_to_rows, rows_to_columns
from .group_graph import GroupGraph
from .ranks import Ranks
from .transfers import broadcast_blocks

_SIDES = ("users", "items")


def propagate(graph: InteractionGraph, x: Tensor, ranks: Ranks, to: str = "users", norm: str = "receiver") -> Tensor:
    """Equals this rank's rows of ``mmssl_fast.propagate(graph, torch.cat(every rank's x), to, norm)``, to the bit.

    The ranks exchange rows for columns, each propagates its d/P columns over the whole graph, and they exchange columns
    for rows. A rank receives (U + I)·d·s·(P − 1)/P² bytes, and as many in backward; s is the size of an element in
    bytes. With G groups of C ranks, a rank has d/C columns, and receives
    (U + I)·d·s·(C − 1)/(P·C) + n·(d/C)·s·(G − 1)/G bytes with n senders, I for to="users".

    Args:
        graph: the whole graph, on every rank; with groups a `GroupGraph`.
        x: [I_p, d] for to="users", [U_p, d] for to="items": this rank's rows.
        ranks: the processes.
        to, norm: as in `mmssl_fast.propagate`.

    Returns:
        [U_p, d] or [I_p, d], this rank's rows.

    Raises:
        ValueError: as in `mmssl_fast.propagate`, and if the number of rows of x is not that of this rank.

    Example:
        >>> import torch
        >>> from mmssl_fast.distributed import start
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 2)
        >>> propagate(graph, torch.eye(2), start(), norm="none")
        tensor([[1., 1.],
                [0., 1.]])
    """
    if ranks.size == 1:
        return propagate_whole(graph, x, to, norm)
    senders, receivers = (graph.n_items, graph.n_users) if to == "users" else (graph.n_users, graph.n_items)
    y = propagate_columns(graph, rows_to_columns(x, senders, ranks), ranks, to, norm)
    return columns_to_rows(y, x.shape[1], ranks, receivers)


def lightgcn(
    graph: InteractionGraph, users: Tensor, items: Tensor, layers: int, ranks: Ranks, norm: str = "receiver"
) -> tuple[Tensor, Tensor]:
    """Equals this rank's rows of ``mmssl_fast.lightgcn`` (equation 10) of the whole tables, to the bit.

    A rank receives 2·(U + I)·d·s·(P − 1)/P² bytes for any number of layers, and as many in backward. With G groups of C
    ranks, it receives 2·(U + I)·d·s·(C − 1)/(P·C), and (U + I)·(d/C)·s·(G − 1)/G more for every layer.

    Args:
        graph: the whole graph, on every rank; with groups a `GroupGraph`.
        users: [U_p, d] and items: [I_p, d], this rank's rows.
        layers, norm: as in `mmssl_fast.lightgcn`.
        ranks: the processes.

    Returns:
        users [U_p, d] and items [I_p, d], this rank's rows.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 3)
        >>> h_users, h_items = lightgcn(graph, torch.ones(2, 4), torch.ones(3, 4), 2, start())
        >>> h_users.shape, h_items.shape
        (torch.Size([2, 4]), torch.Size([3, 4]))
    """
    if ranks.size == 1:
        return lightgcn_whole(graph, users, items, layers, norm)
    columns = rows_to_columns(users, graph.n_users, ranks), rows_to_columns(items, graph.n_items, ranks)
    propagated = list(lightgcn_columns(graph, *columns, layers, ranks, norm))
    del columns  # as large as the tables of rows that are received
    by_user = columns_to_rows(propagated.pop(0), users.shape[1], ranks, graph.n_users)
    return by_user, columns_to_rows(propagated.pop(), users.shape[1], ranks, graph.n_items)


def propagate_columns(
    graph: InteractionGraph, x: Tensor, ranks: Ranks, to: str = "users", norm: str = "receiver"
) -> Tensor:
    """Equals this rank's columns of ``mmssl_fast.propagate(graph, whole, to, norm)``, of which x are the columns.

    With groups, x and the result have the rows of the group. The other groups' rows are broadcast one group after
    another, and the sums over the neighbours continue from one to the next in the order of the nodes, so that on the
    CPU they have the same bits for any number of groups. A rank receives n·(d/C)·s·(G − 1)/G bytes for n senders, and
    as many for n receivers in backward. On CUDA, the sums of the groups are rounded before they are added. With
    `Ranks.wire`, float32 rows are rounded to it before they are broadcast, and s is its size; sums are float32.

    Args:
        graph, to, norm: as in `propagate`.
        x: [n, d_p], this rank's columns of the senders, or with groups [n_g, d_p].
        ranks: the processes.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 2)
        >>> propagate_columns(graph, torch.eye(2), start(), norm="none")
        tensor([[1., 1.],
                [0., 1.]])
    """
    if ranks.groups.size == 1:
        return propagate_whole(graph, x, to, norm)
    _check("propagate", graph, norm, (x, "items" if to == "users" else "users"))
    return _Propagate.apply(_summed(x), graph, to, norm != "none", norm == "both").to(x.dtype)


def lightgcn_columns(
    graph: InteractionGraph, users: Tensor, items: Tensor, layers: int, ranks: Ranks, norm: str = "receiver"
) -> tuple[Tensor, Tensor]:
    """Equals this rank's columns of ``mmssl_fast.lightgcn``, with the tables in columns, as in `propagate_columns`.

    Example:
        >>> from mmssl_fast.distributed import start
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 3)
        >>> lightgcn_columns(graph, torch.ones(2, 4), torch.ones(3, 4), 2, start())[1].shape
        torch.Size([3, 4])
    """
    if ranks.groups.size == 1:
        return lightgcn_whole(graph, users, items, layers, norm)
    _check("lightgcn", graph, norm, (users, "users"), (items, "items"))
    means = _LightGCN.apply(_summed(users), _summed(items), graph, layers, norm != "none", norm == "both")
    return means[0].to(users.dtype), means[1].to(items.dtype)


def _summed(x: Tensor) -> Tensor:
    """x in the dtype of sums."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _check(op: str, graph: InteractionGraph, norm: str, *tables: tuple[Tensor, str]) -> None:
    if not isinstance(graph, GroupGraph):
        raise ValueError(f"{op}: with groups, the graph must be a GroupGraph, got {graph!r}")
    if norm not in NORMS:
        raise ValueError(f"{op}: norm must be one of {', '.join(NORMS)}, got {norm!r}")
    for x, side in tables:
        first, last = graph.ranks.groups.span(graph.n_users if side == "users" else graph.n_items)
        if x.ndim != 2 or x.shape[0] != last - first:
            raise ValueError(f"{op}: the table of the {side} is {tuple(x.shape)}, the group has {last - first} rows")


def _sum(graph: GroupGraph, x: Tensor, to: str, receive: bool, send: bool) -> Tensor:
    """The sums over the neighbours for the receivers of this group, [n_g, d_p], scaled by the degrees of the receivers
    (receive) and of the senders (send)."""
    senders = "items" if to == "users" else "users"
    counts, groups = {"users": graph.n_users, "items": graph.n_items}, graph.ranks.groups
    first, last = groups.span(counts[to])
    out = x.new_zeros(last - first, x.shape[1])
    if not x.shape[1]:  # more ranks in a group than columns
        return out
    rows = torch.arange(last - first, device=x.device)
    scale = graph.inv_sqrt_degree(senders, x.dtype) if send else None
    wire = groups.wire if x.dtype == torch.float32 else None
    sent = x if wire is None else x.to(wire)  # the own block as well, so that nothing depends on who has it
    for begin, block in broadcast_blocks(sent, counts[senders], groups):
        crow, col = graph.blocks[to][begin]
        value = None if scale is None else scale[begin : begin + len(block)].index_select(0, col)
        spmm_add_(out, rows, crow, col, value, block.to(x.dtype))
    return out.mul_(graph.inv_sqrt_degree(to, x.dtype)[first:last, None]) if receive else out


class _Propagate(torch.autograd.Function):
    """Sums over neighbours by groups. The gradient is the sum in the other direction, with the scales exchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: GroupGraph, to: str, receive: bool, send: bool) -> Tensor:
        ctx.graph, ctx.to, ctx.scales = graph, to, (receive, send)
        return _sum(graph, x, to, receive, send)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        receive, send = ctx.scales
        back = "items" if ctx.to == "users" else "users"
        return _Propagate.apply(grad, ctx.graph, back, send, receive), None, None, None, None


class _LightGCN(torch.autograd.Function):
    """The mean over the layers. Its terms are added in the order of csrc/common/lightgcn.h, so that the bits agree."""

    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, graph: GroupGraph, layers: int, receive: bool, send: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.graph, ctx.layers, ctx.scales = graph, layers, (receive, send)
        tables = {"users": users, "items": items}
        totals, added = {side: x.clone() for side, x in tables.items()}, {"users": 0, "items": 0}
        for start in _SIDES:  # the chains users, items, users, … and items, users, items, …
            side, current = start, tables[start]
            for _ in range(layers):
                side = "items" if side == "users" else "users"
                current = _sum(graph, current, side, receive, send)
                totals[side] += current
                added[side] += 1
                if added[side] == layers:
                    totals[side] *= 1.0 / (layers + 1)
        return totals["users"], totals["items"]

    @staticmethod
    def backward(ctx: Any, users: Tensor, items: Tensor) -> tuple[Tensor | None, ...]:
        receive, send = ctx.scales
        return *_LightGCN.apply(users, items, ctx.graph, ctx.layers, send, receive), None, None, None, None
