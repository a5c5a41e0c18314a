"""What each precision of `kernels/precision.py` costs, with the operands of every product rounded as a GPU rounds them.

Triton's interpreter multiplies in float32 whatever it is told, so the product is replaced by one that rounds. The table
in docs/precision.md is compared with what comes out: run with MMSSL_PRINT_PRECISION=1 to have it printed.
"""

import os
import re
from pathlib import Path

import pytest
import torch
from csr_blocks import normal, random_graph

from mmssl_fast import reference

pytest.importorskip("triton", reason="triton is not installed")
import triton
import triton.language as tl

from mmssl_fast.kernels import compile_gate, cosine_block, gumbel_linear, infonce, tiles
from mmssl_fast.ops.gumbel_rows import gumbel_lse

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="emulates what a GPU does itself")

TABLE = Path(__file__).resolve().parents[2] / "docs" / "precision.md"
# What an op may lose beside twice plain PyTorch's error: four units in the last place; gumbel_linear two of noise of
# about 4, divided by τ = 0.3.
ALLOWED = {"cosine_block": 4.8e-7, "infonce": 4.8e-7, "gumbel_linear": 3.2e-6}
PRECISIONS = ("torch", "tf32x3", "tf32", "bf16")


@triton.jit
def _truncated(x):
    """x without the 13 bits that a matrix unit ignores of a float32 in TF32."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _nearest(x, HALF: tl.constexpr, KEPT: tl.constexpr):
    """x rounded half away from zero to the bits of KEPT, HALF being half of the last of them."""
    return ((x.to(tl.int32, bitcast=True) + HALF) & KEPT).to(tl.float32, bitcast=True)


@triton.jit
def rounding_dot(a, b, acc, PRECISION: tl.constexpr):
    """`precision.dot` with its operands rounded, products and sums in float32."""
    if PRECISION == "tf32":
        acc = tl.dot(_truncated(a), _truncated(b), acc)
    elif PRECISION == "bf16":
        acc = tl.dot(_nearest(a, 32768, -65536), _nearest(b, 32768, -65536), acc)
    else:
        high_a, high_b = _nearest(a, 4096, -8192), _nearest(b, 4096, -8192)
        low_a, low_b = _truncated(a - high_a), _truncated(b - high_b)
        acc = tl.dot(low_a, high_b, tl.dot(high_a, low_b, acc))
        acc = tl.dot(high_a, high_b, acc)
    return acc


def block(by_kernels, dtype):
    """Cosines of 40 users with 130 items, rows of length 1, and the gradients of both."""
    u, v = (reference.unit_rows(normal(n, 64, seed=n)).to(dtype).requires_grad_() for n in (40, 130))
    grad = normal(40, 130, seed=3).to(dtype)
    if by_kernels:
        out, inverse = cosine_block.cosine_block(u, v, None, None, True)
        return out, *cosine_block.cosine_block_bwd(grad, u, v, None, None, out, inverse, True, True)
    out = reference.cosine_block(u, v, None, "dot", True)
    return out, *torch.autograd.grad(out, (u, v), grad)


def contrast(by_kernels, dtype):
    """32 anchors against 130 users, τ = 0.2: the log-sum-exp, and the gradients of both embeddings."""
    h, e = (reference.unit_rows(normal(130, 64, seed=seed)).to(dtype).requires_grad_() for seed in (1, 2))
    ids, grad = torch.arange(0, 128, 4), normal(32, seed=3).to(dtype)
    if by_kernels:
        _, lse = infonce.infonce(h, e, ids, 0.2, False)
        return lse, *infonce.infonce_bwd(torch.zeros_like(grad), grad, h, e, ids, lse, 0.2, False)
    lse = (e[ids] @ torch.cat((h, e)).mT / 0.2).logsumexp(1)
    return lse, *torch.autograd.grad(lse, (h, e), grad)


def gumbel(by_kernels, dtype):
    """Gumbel rows of 20 users and 130 items times 64 columns, τ = 0.3, and the gradient of the weight."""
    graph, users = random_graph(20, 130, 0.03), torch.arange(20)
    weight, grad = normal(64, 130).to(dtype), normal(20, 64, seed=2).to(dtype)
    if by_kernels:
        given = graph.crow, graph.col, users, gumbel_lse(graph, users, 0.3, 5)
        noise = 0.3, torch.tensor([5, 0]), 1.0
        return gumbel_linear.gumbel_linear(weight, *given, *noise), gumbel_linear.gumbel_linear_bwd(
            grad, *given, 130, *noise
        )
    rows = reference.gumbel_softmax(graph, users, 0.3, 5, dtype=dtype)
    return rows @ weight.mT, rows.mT @ grad


CASES = {
    "cosine_block": (block, ("block", "gradient of u", "gradient of v")),
    "infonce": (contrast, ("log-sum-exp", "gradient of h", "gradient of e")),
    "gumbel_linear": (gumbel, ("product", "gradient of weight")),
}


def errors(case, precision):
    """The largest error of each output, relative to its largest entry."""
    if precision == "torch":
        outputs = case(False, torch.float32)
    else:
        with compile_gate.switched(precision):
            outputs = case(True, torch.float32)
    truth = case(False, torch.float64)
    return [((x.double() - t).abs().max() / t.abs().max()).item() for x, t in zip(outputs, truth, strict=True)]


@pytest.mark.parametrize("op", CASES)
def test_precision_costs_what_the_table_says(op, monkeypatch):
    for module in (tiles, cosine_block, infonce, gumbel_linear):
        monkeypatch.setattr(module, "dot", rounding_dot)
    case, outputs = CASES[op]
    found = dict(zip(outputs, zip(*(errors(case, precision) for precision in PRECISIONS), strict=True), strict=True))
    if os.environ.get("MMSSL_PRINT_PRECISION"):
        for name, row in found.items():
            print(f"| {op} | {name} | " + " | ".join(f"{x:.1e}" for x in row) + " |")
    for name, row in found.items():
        plain, three, tf32, bf16 = row
        assert three <= 2 * plain + ALLOWED[op], f"{name}: {three} against {plain}"
        assert 10 * three < tf32 < bf16
        printed = re.search(rf"^\| {op} \| {name} \|(.*)\|$", TABLE.read_text(), re.M)
        for x, text in zip(row, printed[1].split("|"), strict=True):
            assert x / 3 < float(text) < 3 * x, f"{op}, {name}: docs/precision.md says {text.strip()}, here {x:.1e}"
