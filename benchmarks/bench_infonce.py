"""infonce, forward and backward, against PyTorch in chunks of keys, which backward computes again: O(U d) memory, too.

With bfloat16 products against both precisions of the peer.
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


def chunked_bfloat16(h, e, ids):
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return chunked(h, e, ids, 512)


PEERS = {
    "eager, 512 keys at a time, checkpointed": lambda h, e, ids: chunked(h, e, ids, 512),
    "inf-cl": inf_cl,
}
WITHOUT_INF_CL = DEVICE.type != "cuda" or importlib.util.find_spec("inf_cl") is None


def inputs(shape):
    h, e = (normal(shape.users, 64, seed=seed).requires_grad_() for seed in (0, 1))
    return h, e, permutation(shape.users)[:ANCHORS]


def run(op, h, e):
    loss = op()
    return loss.detach(), *torch.autograd.grad(loss, (h, e))


def work(shape) -> Work:
    """Two products forward, the same again and four more backward."""
    return Work(bytes=4 * 64 * 8 * shape.users, matrix_flops=16 * 64 * ANCHORS * shape.users)


BOTH_SIZES = pytest.mark.parametrize(
    "shape", [Shape("100k_users", 100_000, 0, 0, ()), Shape("tiktok", 9308, 0, 0, ())], ids=str
)


@pytest.mark.parametrize(
    "peer_name",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(name == "inf-cl" and WITHOUT_INF_CL, reason="needs CUDA and inf-cl")
        )
        for name in PEERS
    ],
)
@BOTH_SIZES
def test_infonce_forward_and_backward(benchmark, shape, peer_name):
    h, e, ids = inputs(shape)

    def check(actual, peer):
        expected = run(lambda: chunked(h, e, ids, 512), h, e)
        for a, x, p in zip(actual, expected, peer, strict=True):
            torch.testing.assert_close(a, x, rtol=1e-4, atol=1e-7)
            if peer_name == "inf-cl":  # TF32 products
                assert (p - x).norm() <= 1e-2 * x.norm()

    compare(
        benchmark,
        lambda: run(lambda: infonce(h, e, ids, TAU), h, e),
        lambda: run(lambda: PEERS[peer_name](h, e, ids), h, e),
        check,
        shape=shape,
        anchors=ANCHORS,
        d=64,
        work=work(shape) if DEVICE.type == "cuda" else None,  # the products are those of bfloat16 numbers
        peer_name=peer_name,
        rounds=5 if shape.users > 50_000 else 20,
    )


@pytest.mark.parametrize("peer", ["float32", "bfloat16"])
@BOTH_SIZES
def test_infonce_bfloat16(benchmark, shape, peer):
    if DEVICE.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch has no fast bfloat16 product on this processor")
    h, e, ids = inputs(shape)
    call = chunked_bfloat16 if peer == "bfloat16" else PEERS["eager, 512 keys at a time, checkpointed"]

    def check(actual, _):
        expected = run(lambda: chunked(h, e, ids, 512), h, e)
        for a, x, limit in zip(actual, expected, (1e-3, 1e-2, 2e-2), strict=True):  # docs/precision.md
            assert (a - x).norm() <= limit * x.norm()

    compare(
        benchmark,
        lambda: run(lambda: infonce(h, e, ids, TAU, gemm=torch.bfloat16), h, e),
        lambda: run(lambda: call(h, e, ids), h, e),
        check,
        shape=shape,
        anchors=ANCHORS,
        d=64,
        work=work(shape) if DEVICE.type == "cuda" else None,  # the products are those of bfloat16 numbers
        peer_name=f"eager, {peer} products, 512 keys at a time, checkpointed",
        rounds=5 if shape.users > 50_000 else 20,
    )
