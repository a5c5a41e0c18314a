"""act_norm_dropout against leaky_relu, batch_norm and dropout: a hidden layer of the discriminator, and the penalty."""

import pytest
import torch
import torch.nn.functional as F
from registry import DEVICE, compare, normal
from roofline import Work

from mmssl_fast.ops.act_norm_dropout import act_norm_dropout

ROWS, HIDDEN = 2048, 1024


@pytest.mark.parametrize("penalty", [False, True], ids=["backward", "double_backward"])
def test_act_norm_dropout(benchmark, tiktok, penalty):
    leaves = [x.requires_grad_() for x in (normal(ROWS, HIDDEN), normal(HIDDEN, seed=1), normal(HIDDEN, seed=2))]
    cotangent, at = normal(ROWS, HIDDEN, seed=3), torch.tensor([5, 3], device=DEVICE)

    def plain(z, weight, bias, rate):
        return F.dropout(F.batch_norm(F.leaky_relu(z, 0.2), None, None, weight, bias, True), rate)

    def run(layer, rate):
        y = layer(*leaves, rate)
        if not penalty:
            return y.detach(), *torch.autograd.grad(y, leaves, cotangent)
        (g,) = torch.autograd.grad(y, leaves[0], cotangent, create_graph=True)
        return g.detach(), *torch.autograd.grad((g.norm(dim=1) - 1).square().mean(), leaves[:2])

    def fused(rate):
        return run(lambda z, weight, bias, rate: act_norm_dropout(z, weight, bias, rate, at)[0], rate)

    def close(*_):  # without dropout: the masks differ
        for a, e in zip(fused(0.0), run(plain, 0.0), strict=True):
            assert (a - e).abs().max() <= 1e-4 * e.abs().max()

    entries = ROWS * HIDDEN  # z, out; z, grad, d_z; and of the second derivative z, grad, gg_z, d_grad, d_z
    compare(
        benchmark,
        lambda: fused(0.31),
        lambda: run(plain, 0.31),
        close,
        shape=tiktok,
        peer_name="leaky_relu, batch_norm, dropout",
        rounds=10,
        work=Work(bytes=4 * entries * (10 if penalty else 5)),
        rows=ROWS,
        hidden=HIDDEN,
    )
