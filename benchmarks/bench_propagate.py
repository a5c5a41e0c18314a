"""propagate against torch.sparse.mm with the same normalised matrix in COO and CSR format."""

import pytest
import torch
from registry import compare, normal, shapes
from roofline import Work

from mmssl_fast.ops.propagate import propagate


def sparse_matrix(graph, layout):
    """diag(1/sqrt|N_u|) A, with the one-sided norm of equation 2, as a sparse tensor."""
    users = torch.repeat_interleave(torch.arange(graph.n_users), graph.user_degree)
    value = graph.inv_sqrt_degree("users")[users]
    size = (graph.n_users, graph.n_items)
    matrix = torch.sparse_coo_tensor(torch.stack((users, graph.col.long())), value, size, is_coalesced=True)
    return matrix if layout == "coo" else matrix.to_sparse_csr()


def product_work(graph, d):
    return Work(bytes=graph.nnz * (4 * d + 4) + 4 * d * graph.n_users, other_flops=2 * d * graph.nnz)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("d", [64, 192])
@pytest.mark.parametrize("shape", shapes("1m"), ids=str)
def test_propagate_forward(benchmark, shape, d, layout):
    graph = shape.graph()
    matrix, x = sparse_matrix(graph, layout), normal(graph.n_items, d)
    compare(
        benchmark,
        lambda: propagate(graph, x),
        lambda: torch.sparse.mm(matrix, x),
        close,
        shape=shape,
        d=d,
        work=product_work(graph, d),
        peer_name=f"torch.sparse.mm, {layout.upper()}",
    )


def test_propagate_forward_and_backward(benchmark, tiktok):
    graph = tiktok.graph()
    matrix, x = sparse_matrix(graph, "coo"), normal(graph.n_items, 64).requires_grad_()
    y_grad = normal(graph.n_users, 64, seed=1)
    compare(
        benchmark,
        lambda: torch.autograd.grad(propagate(graph, x), x, y_grad)[0],
        lambda: torch.autograd.grad(torch.sparse.mm(matrix, x), x, y_grad)[0],
        close,
        shape=tiktok,
        d=64,
        work=product_work(graph, 64) + product_work(graph, 64),
        peer_name="torch.sparse.mm, COO",
    )
