"""cosine_block, forward and backward, against unit rows, product, mask and row length in plain PyTorch."""

import pytest
import torch
from registry import compare, normal

from mmssl_fast import reference
from mmssl_fast.ops.cosine_block import cosine_block


@pytest.mark.parametrize("row_l2", [False, True], ids=["masked", "masked_row_l2"])
def test_cosine_block_forward_and_backward(benchmark, tiktok, row_l2):
    users, d = 1024, 64
    u, v = (normal(n, d, seed=n).requires_grad_() for n in (users, tiktok.items))
    seen = tiktok.graph().rows(torch.arange(users))
    block_grad = normal(users, tiktok.items)

    def run(op):
        block = op(u, v, seen, "cosine", row_l2)
        return block.detach(), *torch.autograd.grad(block, (u, v), block_grad)

    def check(actual, expected):
        for pair in zip(actual, expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)

    compare(
        benchmark,
        lambda: run(cosine_block),
        lambda: run(reference.cosine_block),
        check,
        shape=tiktok,
        batch=users,
        d=d,
        peer_name="plain PyTorch",
    )
