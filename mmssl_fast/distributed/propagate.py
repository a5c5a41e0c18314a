"""propagate and lightgcn for several ranks: each rank propagates some of the columns over the whole graph."""

from __future__ import annotations

from torch import Tensor

from ..graph import InteractionGraph
from ..ops.propagate import lightgcn as lightgcn_whole
from ..ops.propagate import propagate as propagate_whole
from .collectives import columns_to_rows, rows_to_columns
from .ranks import Ranks


def propagate(graph: InteractionGraph, x: Tensor, ranks: Ranks, to: str = "users", norm: str = "receiver") -> Tensor:
    """Equals this rank's rows of ``mmssl_fast.propagate(graph, torch.cat(every rank's x), to, norm)``, to the bit.

    The ranks exchange rows for columns, each propagates its d/P columns over the whole graph, and they exchange columns
    for rows. A rank receives (U + I)·d·s·(P − 1)/P² bytes, and as many in backward; s is the size of an element in
    bytes.

    Args:
        graph: the whole graph, on every rank.
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
    senders = graph.n_items if to == "users" else graph.n_users
    y = propagate_whole(graph, rows_to_columns(x, senders, ranks), to, norm)
    return columns_to_rows(y, x.shape[1], ranks)


def lightgcn(
    graph: InteractionGraph, users: Tensor, items: Tensor, layers: int, ranks: Ranks, norm: str = "receiver"
) -> tuple[Tensor, Tensor]:
    """Equals this rank's rows of ``mmssl_fast.lightgcn`` (equation 10) of the whole tables, to the bit.

    A rank receives 2·(U + I)·d·s·(P − 1)/P² bytes for any number of layers, and as many in backward.

    Args:
        graph: the whole graph, on every rank.
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
    propagated = lightgcn_whole(graph, *columns, layers, norm)
    by_user, by_item = (columns_to_rows(y, users.shape[1], ranks) for y in propagated)
    return by_user, by_item
