"""gumbel_linear, forward and backward, against F.linear on the rows of equation 5 in PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from bench_gumbel_softmax import eager
from registry import compare, normal, shapes
from roofline import Work

from mmssl_fast.ops.gumbel_linear import gumbel_linear
from mmssl_fast.ops.gumbel_method import gumbel_method
from mmssl_fast.ops.gumbel_rows import gumbel_order_statistics
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax

BATCH, HIDDEN = 1024, 1024


@pytest.mark.parametrize("tau", [0.085, 0.2, 0.5])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward_and_backward"])
@pytest.mark.parametrize("shape", shapes("50k", quick="tiktok"), ids=str)
def test_gumbel_linear(benchmark, shape, tau, backward):
    graph = shape.graph()
    users, y_grad = torch.arange(BATCH), normal(BATCH, HIDDEN, seed=2)
    weight = normal(graph.n_items, HIDDEN, seed=1).T.requires_grad_(backward)

    def run(op):
        y = op()
        return (y, torch.autograd.grad(y, weight, y_grad)[0]) if backward else (y,)

    rows = gumbel_softmax(graph, users[:64], tau, 7)
    expected = rows @ weight.detach().T

    def check(actual, peer):
        assert all(a.shape == b.shape for a, b in zip(actual, peer, strict=True))
        torch.testing.assert_close(actual[0][:64].detach(), expected, rtol=1e-4, atol=1e-5)
        if backward:
            total = gumbel_softmax(graph, users, tau, 7).T @ y_grad
            torch.testing.assert_close(actual[1].T, total, rtol=1e-4, atol=1e-4)

    passes = 2 if backward else 1
    method = gumbel_method(tau, 1.0, graph.n_items)
    if method == "dense":
        work = Work(bytes=passes * 4 * HIDDEN * graph.n_items, matrix_flops=passes * 2 * BATCH * graph.n_items * HIDDEN)
    else:
        entries = int(gumbel_order_statistics(graph, users, tau, 7)[0][-1])
        work = Work(bytes=passes * 4 * HIDDEN * (entries + BATCH), other_flops=passes * 2 * entries * HIDDEN)
        work = work + Work(bytes=4 * HIDDEN * graph.n_items * backward)  # the gradient's zeros
    compare(
        benchmark,
        lambda: run(lambda: gumbel_linear(graph, users, weight, tau, 7)),
        lambda: run(lambda: F.linear(eager(graph, users, tau), weight)),
        check,
        shape=shape,
        batch=BATCH,
        hidden=HIDDEN,
        tau=tau,
        method=method,
        rounds=5,
        work=work,
        peer_name="torch.rand, log, log, softmax, F.linear",
    )
