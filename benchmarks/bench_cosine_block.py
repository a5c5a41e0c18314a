"""cosine_block, forward and backward, against unit rows, product, mask and row length in plain PyTorch."""

import pytest
import torch
from registry import compare, compiled, normal
from roofline import Work

from mmssl_fast import reference
from mmssl_fast.ops.cosine_block import cosine_block

PEERS = {
    "plain PyTorch": lambda: reference.cosine_block,
    "torch.compile of plain PyTorch": lambda: compiled(reference.cosine_block),
}


@pytest.mark.parametrize(
    "peer_name", [pytest.param(name, marks=pytest.mark.slow if "compile" in name else []) for name in PEERS]
)
@pytest.mark.parametrize("row_l2", [False, True], ids=["masked", "masked_row_l2"])
def test_cosine_block_forward_and_backward(benchmark, tiktok, row_l2, peer_name):
    peer = PEERS[peer_name]()
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

    blocks = 3 if row_l2 else 2  # the block written and its gradient read; with row_l2 the block read again
    work = Work(
        bytes=4 * (blocks * users * tiktok.items + 4 * d * (users + tiktok.items)),
        matrix_flops=6 * users * tiktok.items * d,
    )
    compare(
        benchmark,
        lambda: run(cosine_block),
        lambda: run(peer),
        check,
        shape=tiktok,
        batch=users,
        d=d,
        work=work,
        peer_name=peer_name,
    )
