"""bpr_loss, forward and backward, against gather, dot and log-sigmoid in plain PyTorch."""

import pytest
import torch
from registry import DEVICE, compare, normal
from roofline import Work

from mmssl_fast import reference
from mmssl_fast.ops.bpr_loss import bpr_loss


@pytest.mark.parametrize("batch", [1024, 8192])
def test_bpr_loss_forward_and_backward(benchmark, tiktok, batch):
    user_emb, item_emb = (normal(n, 64, seed=n).requires_grad_() for n in (tiktok.users, tiktok.items))
    random, sizes = torch.Generator().manual_seed(0), (tiktok.users, tiktok.items, tiktok.items)
    ids = [torch.randint(n, (batch,), generator=random, device="cpu").to(DEVICE) for n in sizes]
    work = Work(bytes=4 * 64 * (9 * batch + tiktok.users + tiktok.items), other_flops=12 * batch * 64)

    def run(op):
        loss = op(user_emb, item_emb, *ids)
        return loss, *torch.autograd.grad(loss, (user_emb, item_emb))

    def check(actual, expected):
        for pair in zip(actual, expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-6)

    compare(
        benchmark,
        lambda: run(bpr_loss),
        lambda: run(reference.bpr_loss),
        check,
        shape=tiktok,
        batch=batch,
        d=64,
        work=work,
        peer_name="plain PyTorch",
    )
