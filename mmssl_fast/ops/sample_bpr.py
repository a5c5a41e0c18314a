"""sample_bpr: users with a positive and a negative item each, for the BPR loss (Eq. 14)."""

import warnings
from weakref import WeakSet

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..graph import InteractionGraph
from .philox import seed_offset

_ops = torch.ops.mmssl_fast
_warned_graphs: WeakSet[InteractionGraph] = WeakSet()  # so that each graph is warned about once


def sample_bpr(
    graph: InteractionGraph, batch: int, seed: int | Tensor, offset: int | Tensor = 0, over: str = "interactions"
) -> tuple[Tensor, Tensor, Tensor]:
    """Equals ``reference.sample_bpr(graph, batch, seed, offset, over)``, bit for bit: random triples of a user, an
    item the user interacted with, and an item the user did not interact with.

    The batches for the BPR loss, equation 14 of MMSSL (WWW 2023). The random numbers are counter-based
    (Philox4x32-10): triple b depends on seed, offset and b only. Users without an item, or with every item, are not
    drawn. The first call for a graph in which users have every item warns how many there are, unless it is compiled.

    Args:
        graph: InteractionGraph with fewer than 2³¹ interactions and items.
        batch: number of triples.
        seed, offset: integers or 0-d int64 tensors. Use a new offset every step; each offset gives another batch.
        over: "interactions" draws interactions with replacement, so that users occur in proportion to their degree.
            "users" draws `batch` distinct users, and for each a uniformly distributed positive.

    Returns:
        users, pos, neg: int64 [batch] each.

    Raises:
        ValueError: no user has both a positive and a negative item, or over="users" requests more users than have
            both.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> users, pos, neg = sample_bpr(graph, batch=4, seed=0)
        >>> interactions = {(0, 0), (0, 2), (1, 1)}
        >>> set(zip(users.tolist(), pos.tolist())) <= interactions
        True
        >>> set(zip(users.tolist(), neg.tolist())) & interactions
        set()
    """
    check_sampling(graph, batch, over)
    if over == "users":
        return _ops.sample_bpr_users(graph.crow, graph.col, *_common(graph.crow, graph.n_items, batch, seed, offset))
    common = _common(graph.crow, graph.n_items, batch, seed, offset)
    return _ops.sample_bpr(graph.crow, graph.col, graph.full_users(), *common)


def check_sampling(graph: InteractionGraph, batch: int, over: str) -> None:
    """Raise ValueError for an unknown `over` or too few users, and warn once per graph of users with every item."""
    op = "sample_bpr"
    if over not in ("interactions", "users"):
        raise ValueError(f'{op}: over must be "interactions" or "users", got {over!r}')
    full = graph.full_users()
    if full.numel() and not torch.compiler.is_compiling() and graph not in _warned_graphs:
        _warned_graphs.add(graph)
        warnings.warn(
            f"{op}: {full.numel()} of {graph.n_users} users interacted with every item; they have no negative item and "
            "are not sampled",
            stacklevel=3,
        )
    if over == "users" and batch > graph.n_eligible:
        raise ValueError(
            f'{op}: over="users" draws without replacement, but batch is {batch} and only {graph.n_eligible} of '
            f"{graph.n_users} users have both a positive and a negative item"
        )


def sample_distinct(crow: Tensor, col: Tensor, n_items: int, batch: int, seed: int, offset: int) -> Tensor:
    """The users, int64 [batch], that ``sample_bpr(over="users")`` draws from the graph with these arrays."""
    return _ops.sample_bpr_users(crow, col, *_common(crow, n_items, batch, seed, offset))[0]


def _common(
    crow: Tensor, n_items: int, batch: int, seed: int | Tensor, offset: int | Tensor
) -> tuple[int, int, Tensor]:
    return n_items, batch, seed_offset("sample_bpr", seed, offset, crow.device)


@torch.library.register_fake("mmssl_fast::sample_bpr")
def _(
    crow: Tensor, col: Tensor, full_users: Tensor, n_items: int, batch: int, seed_offset: Tensor
) -> tuple[Tensor, ...]:
    return tuple(crow.new_empty(batch) for _ in range(3))


@torch.library.register_fake("mmssl_fast::sample_bpr_users")
def _(crow: Tensor, col: Tensor, n_items: int, batch: int, seed_offset: Tensor) -> tuple[Tensor, ...]:
    return tuple(crow.new_empty(batch) for _ in range(3))
