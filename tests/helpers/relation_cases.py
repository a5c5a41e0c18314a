"""Blocks of users, items and seen pairs that the relation tests share."""

import torch

from mmssl_fast.graph import InteractionGraph


def catalogue(n_users=50, n_items=41, share=0.2, seed=0):
    """A random graph in which user 1 has seen every item and user 2 none."""
    present = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < share
    if n_users > 2:
        present[1], present[2] = True, False
    return InteractionGraph.from_pairs(*present.nonzero(as_tuple=True), n_users, n_items)


def factors(n_rows, n_items, d, dtype=torch.float64, seed=1):
    """u [n_rows, d] with a zero row 3, v [n_items, d] with a zero row 5; both require grad."""
    random = torch.Generator().manual_seed(seed)
    u = torch.randn(n_rows, d, dtype=torch.float64, generator=random).to(dtype)
    v = torch.randn(n_items, d, dtype=torch.float64, generator=random).to(dtype)
    if n_rows > 3:
        u[3] = 0
    if n_items > 5:
        v[5] = 0
    return u.requires_grad_(), v.requires_grad_()


def weights(h, n_items, item_major=True, dtype=torch.float64, seed=2):
    """weight [h, n_items] that requires grad, of either layout."""
    weight = torch.randn(h, n_items, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return (weight.t().contiguous().t() if item_major else weight).requires_grad_()


def carried(dtype=torch.float64, ratio=1e-3, n_rows=6, n_items=301, d=8):
    """(u, v, seen) where the seen items of every even row carry it: what is left is `ratio` of its length."""
    random = torch.Generator().manual_seed(4)
    u = torch.randn(n_rows, d, dtype=torch.float64, generator=random)
    v = torch.randn(n_items, d, dtype=torch.float64, generator=random)
    present = torch.rand(n_rows, n_items, generator=random) < 0.02
    for row in range(0, n_rows, 2):
        own = slice(3 * row, 3 * row + 3)
        v[own] = (
            u[row] / u[row].norm() * torch.tensor([[1.0], [1.1], [0.9]], dtype=torch.float64) * n_items**0.5 / ratio
        )
        present[0::2, own], present[1::2, own] = True, False
    graph = InteractionGraph.from_pairs(*present.nonzero(as_tuple=True), n_rows, n_items)
    return u.to(dtype).requires_grad_(), v.to(dtype).requires_grad_(), graph.rows(torch.arange(n_rows))


def wide(*tensors):
    """float64 copies, leaves that require grad, of the same layout."""
    return [t.detach().double().requires_grad_() for t in tensors]


def relative(actual, truth):
    """Largest error relative to the largest value (0.01 where that is smaller: the gradient of a row of one item is
    noise)."""
    if truth.numel() == 0:
        return 0.0
    return (actual.double() - truth.double()).abs().max().item() / max(truth.abs().max().item(), 1e-2)
