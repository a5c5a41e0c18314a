"""sample_bpr: users, positives and negatives for the BPR loss (equation 14)."""

import warnings
from weakref import WeakSet

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..graph import InteractionGraph
from .philox import seed_offset

_ops = torch.ops.mmssl_fast
_told: WeakSet[InteractionGraph] = WeakSet()  # graphs whose users without a negative have been reported


def sample_bpr(
    graph: InteractionGraph, batch: int, seed: int | Tensor, offset: int | Tensor = 0, over: str = "interactions"
) -> tuple[Tensor, Tensor, Tensor]:
    """Equals ``reference.sample_bpr(graph, batch, seed, offset, over)`` to the bit: a batch of (user, item the user
    has, item the user has not) of equation 14.

    Draws are counter-based (Philox4x32-10): a slot's draw depends on seed, offset and slot alone. Users with no item
    or with every item are left out; the first call on a graph that has users with every item warns with their number
    (compiled calls do not).

    Args:
        graph: InteractionGraph with fewer than 2³¹ interactions and items.
        batch: number of triples.
        seed, offset: integers or 0-d int64 tensors; another offset (a step), another batch.
        over: "interactions": each slot draws an interaction, so users come up by their degree, with replacement.
            "users": `batch` distinct users, each with a uniformly drawn positive.

    Returns:
        users, pos, neg: int64 [batch] each.

    Raises:
        ValueError: no user has both a positive and a negative, or over="users" asks for more users than there are.
    """
    op = "sample_bpr"
    if over not in ("interactions", "users"):
        raise ValueError(f'{op}: over must be "interactions" or "users", got {over!r}')
    full = graph.full_users()
    if full.numel() and not torch.compiler.is_compiling() and graph not in _told:
        _told.add(graph)
        warnings.warn(
            f"{op}: {full.numel()} of {graph.n_users} users have every item and no negative to sample: left out",
            stacklevel=2,
        )
    rest = graph.n_items, batch, seed_offset(op, seed, offset, graph.crow.device)
    if over == "users":
        if batch > graph.n_eligible:
            raise ValueError(
                f'{op}: over="users" draws without replacement: batch is {batch}, only {graph.n_eligible} of '
                f"{graph.n_users} users have both a positive and a negative item"
            )
        return _ops.sample_bpr_users(graph.crow, graph.col, *rest)
    return _ops.sample_bpr(graph.crow, graph.col, full, *rest)


@torch.library.register_fake("mmssl_fast::sample_bpr")
def _(
    crow: Tensor, col: Tensor, full_users: Tensor, n_items: int, batch: int, seed_offset: Tensor
) -> tuple[Tensor, ...]:
    return tuple(crow.new_empty(batch) for _ in range(3))


@torch.library.register_fake("mmssl_fast::sample_bpr_users")
def _(crow: Tensor, col: Tensor, n_items: int, batch: int, seed_offset: Tensor) -> tuple[Tensor, ...]:
    return tuple(crow.new_empty(batch) for _ in range(3))
