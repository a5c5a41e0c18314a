"""Relation rows, their gradient and its square, and comparison with the matrices that they stand for."""

import torch
import torch.nn.functional as F
from relation_cases import catalogue, factors, weights
from torch import Tensor

from mmssl_fast.relation import RelationGradient, RelationRows, torch_functions  # noqa: F401  registers the functions

N_ROWS, N_ITEMS, H = 6, 9, 4


def rows_of(grad=False):
    u, v = factors(N_ROWS, N_ITEMS, 3)
    rows = RelationRows.generated(u, v, "dot", catalogue(N_ROWS, N_ITEMS).rows(torch.arange(N_ROWS)))
    rows = torch.cat((rows[:2], 0.5 * rows[2:] + block()[2:]))
    return rows if grad else rows.detach()


def gradient():
    x = rows_of().requires_grad_()
    (g,) = torch.autograd.grad(F.linear(x, weights(H, N_ITEMS).detach()).square().sum(), x)
    return g


SUBJECTS = {"rows": rows_of, "gradient": gradient, "square": lambda: gradient() ** 2}


def block():
    return torch.randn(N_ROWS, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def column():
    return torch.linspace(0.5, 2, N_ROWS, dtype=torch.float64)[:, None]


def plain(result):
    if isinstance(result, RelationRows | RelationGradient) or type(result).__name__ == "RelationGradientSquare":
        return result.dense()
    if isinstance(result, torch.return_types.topk):  # equal entries come in any order from torch
        return (result.values,)
    return tuple(map(plain, result)) if isinstance(result, tuple | list) else result


def assert_same(found, truth, what):
    found, truth = plain(found), plain(truth)
    if isinstance(truth, tuple):
        assert isinstance(found, tuple) and len(found) == len(truth), what
        for a, b in zip(found, truth, strict=True):
            assert_same(a, b, what)
    elif isinstance(truth, Tensor):
        assert isinstance(found, Tensor) and found.shape == truth.shape and found.dtype == truth.dtype, what
        tolerance = 1e-5 if truth.dtype == torch.float32 else 1e-9
        assert torch.allclose(found, truth, rtol=tolerance, atol=tolerance, equal_nan=True), what
    else:
        assert found == truth, what
