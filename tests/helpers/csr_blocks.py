"""CSR blocks and graphs for tests."""

import torch

from mmssl_fast.graph import InteractionGraph, SeenRows


def csr_block(rows, cols, share, index=torch.int64, seed=0):
    """crow, col, row of a random block; the second of three rows or more is empty."""
    present = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < share
    if rows > 2:
        present[1] = False
    row, col = present.nonzero(as_tuple=True)
    crow = torch.zeros(rows + 1, dtype=torch.int64)
    crow[1:] = present.sum(1).cumsum(0)
    return crow, col.to(index), row


def padded_seen(rows, cols, share, index=torch.int64):
    """SeenRows of a random block whose `col` is longer than crow says, as blocks made without asking the device for
    their size are. The second of three rows or more sees nothing, the third of a few everything."""
    crow, col, row = csr_block(rows, cols, share, index)
    if 2 < rows < 50:
        counts = torch.bincount(row, minlength=rows)
        counts[2] = cols
        crow[1:] = counts.cumsum(0)
        col = torch.cat((col[row < 2], torch.arange(cols, dtype=index), col[row > 2]))
    return SeenRows(crow, torch.cat((col, col.new_zeros(3))))


def random_graph(n_users, n_items, share, weighted=False, seed=0):
    """An InteractionGraph with that share of all pairs; edge values, if any, around 1 and of both signs."""
    _, items, users = csr_block(n_users, n_items, share, seed=seed)
    values = torch.randn(items.numel(), generator=torch.Generator().manual_seed(seed + 1)) + 1 if weighted else None
    return InteractionGraph.from_pairs(users, items, n_users, n_items, values)


def normal(*shape, dtype=torch.float64, seed=1, scale=1.0):
    """Standard normal values from a seed, the same for every dtype up to rounding."""
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, dtype=torch.float64, generator=random) * scale).to(dtype)
