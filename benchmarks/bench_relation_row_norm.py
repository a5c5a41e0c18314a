"""relation_row_norm against the norm of the dense block, forward and backward."""

import pytest
import torch
from registry import compare, normal, permutation, shapes
from roofline import Work

from mmssl_fast.reference import relation_row_norm as dense_norm
from mmssl_fast.relation.algebra.relation_row_norm import relation_row_norm

ROWS, D = 1024, 64


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", shapes("200k"), ids=str)
def test_relation_row_norm_forward_and_backward(benchmark, shape, masked):
    graph = shape.graph()
    users = permutation(graph.n_users)[:ROWS]
    seen = graph.rows(users) if masked else None
    u, v = normal(ROWS, D).requires_grad_(), normal(graph.n_items, D, seed=1).requires_grad_()

    def run(op):
        n = op(u, v, seen)
        return n.detach(), *torch.autograd.grad(n.sum(), (u, v))

    def close(actual, expected):
        for a, e in zip(actual, expected, strict=True):
            assert (a - e).abs().max() <= 1e-5 * e.abs().max()

    compare(
        benchmark,
        lambda: run(relation_row_norm),
        lambda: run(dense_norm),
        close,
        shape=shape,
        peer_name="norm of the dense block",
        rounds=5,
        rows=ROWS,
        work=Work(bytes=4 * 3 * D * graph.n_items, other_flops=6 * D * D * graph.n_items),
    )
