"""A small catalogue for the tests of mmssl_fast.nn, with an idle user, a user of everything and an idle item."""

import torch

from mmssl_fast.graph import InteractionGraph

N_USERS, N_ITEMS = 13, 11
EMPTY_USER, FULL_USER, EMPTY_ITEM = 4, 7, 10
WIDTHS = {"visual": 9, "acoustic": 5, "textual": 6}


def catalogue(modalities: int, seed: int = 0) -> tuple[InteractionGraph, dict[str, torch.Tensor]]:
    """The interaction graph [13 x 11] and float64 features of the first `modalities` modalities."""
    generator = torch.Generator().manual_seed(seed)
    adjacency = torch.rand(N_USERS, N_ITEMS, generator=generator) < 0.35
    adjacency[FULL_USER] = True
    adjacency[:, EMPTY_ITEM] = False
    adjacency[EMPTY_USER] = False
    users, items = adjacency.nonzero().unbind(1)
    features = {
        name: torch.randn(N_ITEMS, width, generator=generator, dtype=torch.float64)
        for name, width in list(WIDTHS.items())[:modalities]
    }
    return InteractionGraph.from_pairs(users, items, N_USERS, N_ITEMS), features


def adjacency(graph: InteractionGraph) -> torch.Tensor:
    """A of the paper, dense float64 [U, I]."""
    dense = torch.zeros(graph.n_users, graph.n_items, dtype=torch.float64)
    dense[torch.repeat_interleave(torch.arange(graph.n_users), graph.user_degree), graph.col.long()] = 1
    return dense
