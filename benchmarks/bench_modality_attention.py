"""modality_attention, forward and backward, against reference.py's einsums."""

import pytest
import torch
from registry import compare, normal
from roofline import Work

from mmssl_fast import reference
from mmssl_fast.ops.modality_attention import modality_attention

HEADS = 4


@pytest.mark.parametrize("modalities", [2, 3])
def test_modality_attention_forward_and_backward(benchmark, tiktok, modalities):
    d = 64
    e = normal(modalities, tiktok.users, d).requires_grad_()
    weights = [
        normal(rows, d, seed=rows + i).mul_(rows**-0.5).requires_grad_() for i, rows in enumerate((d, d, HEADS * d))
    ]

    def run(op):
        y = op(e, *weights, HEADS)
        return y, *torch.autograd.grad(y.square().sum(), (e, *weights))

    def check(actual, expected):
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * b.abs().max().item())

    nodes = tiktok.users
    # three projections and their gradients; every tensor of M N d read or written twice forward, four times backward
    work = Work(bytes=4 * 6 * modalities * nodes * d, matrix_flops=3 * 2 * nodes * d * d * (2 * modalities + HEADS))
    compare(
        benchmark,
        lambda: run(modality_attention),
        lambda: run(reference.modality_attention),
        check,
        shape=tiktok,
        rounds=10,
        modalities=modalities,
        heads=HEADS,
        d=d,
        work=work,
        peer_name="plain PyTorch",
    )
