"""relation_linear against F.linear of the dense block: forward, and with its gradients."""

import pytest
import torch
from registry import compare, normal, permutation, shapes
from roofline import Work

from mmssl_fast import reference
from mmssl_fast.relation.algebra.relation_linear import relation_linear

ROWS, D, HIDDEN = 1024, 64, 1024


def setting(shape):
    graph = shape.graph()
    users = permutation(graph.n_users)[:ROWS]
    u, v = normal(ROWS, D).requires_grad_(), normal(graph.n_items, D, seed=1).requires_grad_()
    weight = (normal(graph.n_items, HIDDEN, seed=2) / HIDDEN).mT.requires_grad_()
    plain = weight.detach().contiguous().requires_grad_()  # the layout nn.Linear has
    return graph.rows(users), u, v, weight, plain


def layer_work(seen, shape, passes):
    """passes: the number of passes over the weight, 1 forward and 2 more backward."""
    low_rank = 2 * D * HIDDEN * (shape.items + ROWS)
    return Work(passes * 4 * HIDDEN * (shape.items + seen.col.numel()), passes * low_rank)


def close(actual, expected):
    """Compares relative to the largest entry. The dense formulation itself has an error of 1e-3 in dU if rows are
    normalised."""
    for a, e, limit in zip(actual, expected, (1e-4, 5e-3, 1e-4, 1e-4), strict=False):
        assert (a - e).abs().max() <= limit * e.abs().max()


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("shape", shapes("50k", quick="tiktok"), ids=str)
def test_relation_linear_forward(benchmark, shape, row_l2):
    seen, u, v, weight, plain = setting(shape)
    with torch.no_grad():
        compare(
            benchmark,
            lambda: (relation_linear(u, v, weight, seen, "cosine", row_l2),),
            lambda: (reference.relation_linear(u, v, plain, seen, "cosine", row_l2),),
            close,
            shape=shape,
            peer_name="cosine_block, F.linear",
            rounds=3,
            rows=ROWS,
            hidden=HIDDEN,
            work=layer_work(seen, shape, 1),
        )


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("shape", shapes("50k", quick="tiktok"), ids=str)
def test_relation_linear_forward_and_backward(benchmark, shape, row_l2):
    seen, u, v, weight, plain = setting(shape)
    dz = normal(ROWS, HIDDEN, seed=3)

    def run(op, weight):
        z = op(u, v, weight, seen, "cosine", row_l2)
        return z.detach(), *torch.autograd.grad(z, (u, v, weight), dz)

    compare(
        benchmark,
        lambda: run(relation_linear, weight),
        lambda: run(reference.relation_linear, plain),
        close,
        shape=shape,
        peer_name="cosine_block, F.linear",
        rounds=3,
        rows=ROWS,
        hidden=HIDDEN,
        work=layer_work(seen, shape, 3),
    )
