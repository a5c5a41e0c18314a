"""RelationRows of every kind beside the dense blocks that they stand for."""

import torch
from relation_cases import catalogue, factors, relative

from mmssl_fast import reference
from mmssl_fast.relation import RelationRows

N_ITEMS, D, H = 101, 5, 17
TAUS = (0.05, 0.5)  # order statistics and dense tiles


def setting(n_rows=13, dtype=torch.float64):
    """A graph, users (the one who has seen all first, a repeat last) and two pairs of factors."""
    graph = catalogue(50, N_ITEMS)
    users = torch.tensor([1, 2, 4, *range(7, 50)])[:n_rows]
    if n_rows > 3:
        users[-1] = users[0]
    (u, v), (a, b) = factors(n_rows, N_ITEMS, D, dtype), factors(n_rows, N_ITEMS, D, dtype, seed=7)
    return graph, users, graph.rows(users), (u, v, a, b)


def unit(rows):
    return reference.unit_rows(rows)


def both(name, n_rows=13, dtype=torch.float64, tau=TAUS[0]):
    """(rows, the same rows dense, leaves) of one way to make them."""
    graph, users, seen, (u, v, a, b) = setting(n_rows, dtype)
    scale = torch.linspace(-1, 2, n_rows, dtype=dtype)[:, None].requires_grad_()
    alpha = torch.linspace(0, 1, 2 * n_rows, dtype=dtype)[:, None].requires_grad_()
    x = torch.randn(n_rows, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    x = x.to(dtype).requires_grad_()

    def lazy(u, v, kind, seen=None, row_l2=False):
        return RelationRows.generated(u, v, kind, seen, row_l2)

    def dense(u, v, kind, seen=None, row_l2=False):
        return reference.cosine_block(u, v, seen, kind, row_l2)

    gumbel = RelationRows.gumbel(graph, users, tau, 3, 4)
    p = gumbel.dense().double()  # its values are float32 and are taken as they are; the test below compares them
    gumbel, p = gumbel.to(dtype), p.to(dtype)

    def made(generated, gumbel, block, normalize, cat):
        one, two = generated(u, v, "dot", seen), generated(a, b, "cosine")
        real = normalize(gumbel + 3.0 * generated(u, v, "cosine", seen))
        fakes = cat([generated(u, v, "dot", seen, True), generated(a, b, "cosine", seen, True)])
        return {
            "gumbel": lambda: gumbel * scale,
            "scaled": lambda: one * scale / 4 - two * 2.0,
            "same twice": lambda: one + two - one * 3.0,
            "other mask": lambda: normalize(one + two),
            "no mask": lambda: normalize(generated(u, v, "dot") + two),
            "shared v": lambda: normalize(generated(u, v, "dot", seen) + generated(a, v, "dot", seen) * scale),
            "real": lambda: real,
            "real unscaled": lambda: gumbel + scale * two,
            "real masked": lambda: normalize(gumbel + generated(u, v, "dot", seen) * 0.1),
            "dense": lambda: normalize(one + block(x)),
            "dense and gumbel": lambda: normalize(two * scale + block(x) + gumbel),
            "stack": lambda: cat([real, one, block(x), two * scale]),
            "interpolates": lambda: alpha * cat([real, real]) + (1 - alpha) * fakes,
            "misaligned": lambda: cat([one, two]) + cat([block(x)[:4], cat([gumbel, real])[:22]]),
            "normalised stack": lambda: normalize(cat([one, two])) * alpha,
        }[name]()

    lazy_rows = made(lazy, gumbel, RelationRows.from_dense, lambda r: r.normalize(), RelationRows.cat)
    dense_rows = made(dense, p, lambda x: x, unit, torch.cat)
    return lazy_rows, dense_rows, (u, v, a, b, scale, alpha, x)


NAMES = [
    *("gumbel", "scaled", "same twice", "other mask", "no mask", "shared v", "real", "real unscaled", "real masked"),
    *("dense", "dense and gumbel", "stack", "interpolates", "misaligned", "normalised stack"),
]


def without_none(*gradients):
    """An absent gradient is a zero one."""
    like = next((g for g in gradients if g is not None), torch.zeros(1))
    return [torch.zeros_like(like) if g is None else g for g in gradients]


def compare(actual, truth, leaves, tolerance):
    assert relative(actual, truth) < tolerance
    random = torch.Generator().manual_seed(5)
    outward = torch.randn(truth.shape, dtype=torch.float64, generator=random).to(truth.dtype)
    if not truth.requires_grad:
        assert not actual.requires_grad
        return
    gradients = (torch.autograd.grad(y, leaves, outward, allow_unused=True, retain_graph=True) for y in (actual, truth))
    for a, t in zip(*gradients, strict=True):
        assert relative(*without_none(a, t)) < tolerance
