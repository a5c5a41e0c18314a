"""infonce, forward and backward, against eager PyTorch in chunks of keys, recomputed in backward: O(U d) memory too."""

import pytest
import torch
import torch.nn.functional as F
from registry import Shape, compare, normal, permutation
from roofline import Work
from torch.utils.checkpoint import checkpoint

from mmssl_fast.ops.infonce import infonce

TAU, ANCHORS = 0.2, 1024


def chunked(h, e, ids, chunk):
    """Eq. 11 with at most `chunk` keys at a time. Smaller chunks are faster until calls outweigh what stays in cache:
    512 was the best of 256 to 8192 at 100 thousand users."""
    h, e = F.normalize(h), F.normalize(e)
    anchors = e[ids]

    def lse(anchors, keys):
        return (anchors @ keys.T / TAU).logsumexp(1)

    parts = [checkpoint(lse, anchors, keys, use_reentrant=False) for x in (h, e) for keys in x.split(chunk)]
    return (torch.stack(parts, 1).logsumexp(1) - (anchors * h[ids]).sum(1) / TAU).mean()


@pytest.mark.parametrize("shape", [Shape("100k_users", 100_000, 0, 0, ()), Shape("tiktok", 9308, 0, 0, ())], ids=str)
def test_infonce_forward_and_backward(benchmark, shape):
    h, e = (normal(shape.users, 64, seed=seed).requires_grad_() for seed in (0, 1))
    ids = permutation(shape.users)[:ANCHORS]

    def run(op):
        loss = op()
        return loss.detach(), *torch.autograd.grad(loss, (h, e))

    def check(actual, expected):
        for pair in zip(actual, expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-7)

    # two products forward, the same again and four more backward
    work = Work(bytes=4 * 64 * 8 * shape.users, matrix_flops=16 * 64 * ANCHORS * shape.users)
    compare(
        benchmark,
        lambda: run(lambda: infonce(h, e, ids, TAU)),
        lambda: run(lambda: chunked(h, e, ids, 512)),
        check,
        shape=shape,
        anchors=ANCHORS,
        d=64,
        work=work,
        peer_name="eager, 512 keys at a time, checkpointed",
        rounds=5 if shape.users > 50_000 else 20,
    )
