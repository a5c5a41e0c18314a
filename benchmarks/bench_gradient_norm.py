"""gradient_norm against (g @ weight).norm(dim=1), forward and backward: the penalty in a discriminator step."""

import pytest
import torch
from registry import compare, normal
from roofline import Work

from mmssl_fast.reference import gradient_norm as dense_norm
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm


@pytest.mark.parametrize("rows, hidden", [(2048, 1024), (2048, 512), (256, 1024)])
def test_gradient_norm_forward_and_backward(benchmark, tiktok, rows, hidden):
    g = normal(rows, hidden).requires_grad_()
    weight = (normal(tiktok.items, hidden, seed=1) / hidden).mT.requires_grad_()
    plain = weight.detach().contiguous().requires_grad_()  # the layout nn.Linear has

    def run(op, weight):
        n = op(g, weight)
        return n.detach(), *torch.autograd.grad((n - 1).square().mean(), (g, weight))

    def close(actual, expected):
        for a, e in zip(actual, expected, strict=True):
            assert (a - e).abs().max() <= 1e-4 * e.abs().max()

    # K and dW over the items, g K and dK over the rows; K and dK are symmetric
    work = Work(bytes=4 * 3 * hidden * tiktok.items, matrix_flops=3 * hidden**2 * (tiktok.items + rows))
    compare(
        benchmark,
        lambda: run(gradient_norm, weight),
        lambda: run(dense_norm, plain),
        close,
        shape=tiktok,
        peer_name="(g @ weight).norm(dim=1)",
        rounds=3,
        work=work,
        rows=rows,
        hidden=hidden,
    )
