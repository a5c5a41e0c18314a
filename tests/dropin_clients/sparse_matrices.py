"""Sparse matrices that are hard on a product, for the tests of mmssl_fast.dropin.sparse."""

import torch

from mmssl_fast.dropin import sparse


def matrix(layout="coo", n_rows=17, n_cols=11, dtype=torch.float64, seed=0):
    """Not symmetric, negative values, an empty row and column, entries out of order and one of them twice."""
    random = torch.Generator().manual_seed(seed)
    row, col = (torch.randint(n, (60,), generator=random) for n in (n_rows - 1, n_cols - 1))
    row[-1], col[-1] = row[0], col[0]
    value = torch.randn(60, generator=random, dtype=torch.float64).to(dtype)
    coo = torch.sparse_coo_tensor(torch.stack((row, col)), value, (n_rows, n_cols))
    return {"coo": lambda: coo, "csr": coo.to_sparse_csr, "csc": coo.to_sparse_csc}[layout]()


def dense(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def product_and_gradient(a, x, product=lambda a, x: torch.sparse.mm(a, x)):
    x = x.clone().requires_grad_()
    y = product(a, x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), dx


def near(found, truth):
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def assert_torchs(a, x):
    truth = a.to_dense()
    with sparse.accelerated():
        y, dx = product_and_gradient(a, x)
    assert type(y) is torch.Tensor and y.dtype == truth.dtype
    near(y, truth @ x)
    near(dx, truth.T @ torch.ones_like(y))
