"""infonce, forward and backward, against PyTorch in chunks of keys, which backward computes again: O(U d) memory, too.

On CUDA, if inf-cl is installed, also against its Triton kernels (Inf-CLIP, Cheng et al., 2024).
"""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from registry import DEVICE, Shape, compare, normal, permutation
from roofline import Work
from torch.utils.checkpoint import checkpoint

from mmssl_fast.ops.infonce import infonce

TAU, ANCHORS = 0.2, 1024


def chunked(h, e, ids, chunk):
    """Eq. 11 with at most `chunk` keys at a time. Small chunks stay in cache, but need more calls. 512 was the best of
    256 to 8192 for 100 thousand users."""
    h, e = F.normalize(h), F.normalize(e)
    anchors = e[ids]

    def lse(anchors, keys):
        return (anchors @ keys.T / TAU).logsumexp(1)

    parts = [checkpoint(lse, anchors, keys, use_reentrant=False) for x in (h, e) for keys in x.split(chunk)]
    return (torch.stack(parts, 1).logsumexp(1) - (anchors * h[ids]).sum(1) / TAU).mean()


def inf_cl(h, e, ids):
    """Eq. 11 as a single contrastive loss over 2 U keys."""
    from inf_cl import cal_flash_loss

    h, e = F.normalize(h), F.normalize(e)
    return cal_flash_loss(e[ids], torch.cat((h, e)), ids, 1 / TAU, h.shape[1]).mean()


PEERS = {
    "eager, 512 keys at a time, checkpointed": lambda h, e, ids: chunked(h, e, ids, 512),
    "inf-cl": inf_cl,
}
WITHOUT_INF_CL = DEVICE.type != "cuda" or importlib.util.find_spec("inf_cl") is None


@pytest.mark.parametrize(
    "peer_name",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(name == "inf-cl" and WITHOUT_INF_CL, reason="needs CUDA and inf-cl")
        )
        for name in PEERS
    ],
)
@pytest.mark.parametrize("shape", [Shape("100k_users", 100_000, 0, 0, ()), Shape("tiktok", 9308, 0, 0, ())], ids=str)
def test_infonce_forward_and_backward(benchmark, shape, peer_name):
    h, e = (normal(shape.users, 64, seed=seed).requires_grad_() for seed in (0, 1))
    ids = permutation(shape.users)[:ANCHORS]

    def run(op):
        loss = op()
        return loss.detach(), *torch.autograd.grad(loss, (h, e))

    def check(actual, peer):
        expected = run(lambda: chunked(h, e, ids, 512))
        for a, x, p in zip(actual, expected, peer, strict=True):
            torch.testing.assert_close(a, x, rtol=1e-4, atol=1e-7)
            if peer_name == "inf-cl":  # TF32 products
                assert (p - x).norm() <= 1e-2 * x.norm()

    # two products forward, the same again and four more backward
    work = Work(bytes=4 * 64 * 8 * shape.users, matrix_flops=16 * 64 * ANCHORS * shape.users)
    compare(
        benchmark,
        lambda: run(lambda: infonce(h, e, ids, TAU)),
        lambda: run(lambda: PEERS[peer_name](h, e, ids)),
        check,
        shape=shape,
        anchors=ANCHORS,
        d=64,
        work=work,
        peer_name=peer_name,
        rounds=5 if shape.users > 50_000 else 20,
    )
