"""sampled_dot against (u @ v.T)[row, col]."""

import pytest
import torch
from csr_blocks import csr_block
from tolerances import assert_as_accurate

from mmssl_fast.ops.sampled_dot import sampled_dot

pytestmark = pytest.mark.usefixtures("poison")

# rows, items, d, share of entries present
SHAPES = [
    (41, 401, 64, 0.05),
    (7, 1271, 41, 0.01),
    (1, 50, 8, 0.5),
    (33, 1, 5, 0.5),
    (5, 9, 1, 0.4),
    (9, 11, 130, 1.0),
    (9, 11, 7, 0.0),
    (0, 11, 7, 0.5),
    (4, 6, 0, 0.5),
]


def factors(rows, items, d, dtype=torch.float64, seed=1):
    random = torch.Generator().manual_seed(seed)
    u = torch.randn(rows, d, dtype=torch.float64, generator=random).to(dtype)
    v = torch.randn(items, d, dtype=torch.float64, generator=random).to(dtype)
    return u.requires_grad_(), v.requires_grad_()


def plain(row, col, u, v):
    return (u @ v.T)[row, col.long()]


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_sampled_dot_values_and_gradients(shape, dtype, index):
    rows, items, d, share = shape
    crow, col, row = csr_block(rows, items, share, index)
    u, v = factors(rows, items, d, dtype)
    u64, v64 = (x.detach().double().requires_grad_() for x in (u, v))
    weight = torch.linspace(-1, 1, col.numel(), dtype=torch.float64).to(dtype)

    actual, expected, truth = sampled_dot(crow, col, u, v), plain(row, col, u, v), plain(row, col, u64, v64)
    assert_as_accurate(actual, expected, truth)
    actual_grads = torch.autograd.grad(actual, (u, v), weight)
    expected_grads = torch.autograd.grad(expected, (u, v), weight)
    true_grads = torch.autograd.grad(truth, (u64, v64), weight.double())
    for parts in zip(actual_grads, expected_grads, true_grads, strict=True):
        assert_as_accurate(*parts)


def test_sampled_dot_counts_a_repeated_entry_every_time():
    crow, col = torch.tensor([0, 3]), torch.tensor([2, 0, 2])
    u, v = factors(1, 3, 4)
    s = sampled_dot(crow, col, u, v)
    assert torch.equal(s[0], s[2])
    (dv,) = torch.autograd.grad(s.sum(), v)
    torch.testing.assert_close(dv, torch.stack([u[0], torch.zeros(4, dtype=u.dtype), 2 * u[0]]).detach())


@pytest.mark.parametrize("strides", ["contiguous", "transposed", "expanded", "zero"])
def test_sampled_dot_gradcheck(strides):
    crow, col, _ = csr_block(5, 7, 0.4)
    u, v = factors(5, 7, 3)
    if strides == "transposed":
        u = u.detach().T.contiguous().T.requires_grad_()
    elif strides == "zero":
        v = torch.zeros_like(v).requires_grad_()

    def op(u, v):
        return sampled_dot(crow, col, u[:1].expand(5, 3) if strides == "expanded" else u, v)

    assert torch.autograd.gradcheck(op, (u, v))
    assert torch.autograd.gradgradcheck(op, (u, v))


@pytest.mark.parametrize("share", [0.4, 0.0])
def test_sampled_dot_opcheck(share):
    crow, col, _ = csr_block(5, 7, share)
    u, v = factors(5, 7, 3)
    grad = torch.randn(col.numel(), dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.mmssl_fast.sampled_dot, (crow, col, u, v))
    torch.library.opcheck(torch.ops.mmssl_fast.sampled_dot_bwd_u, (crow, col, grad, v))
    torch.library.opcheck(torch.ops.mmssl_fast.sampled_dot_bwd_v, (crow, col, grad, u, 7))


def test_sampled_dot_compiles_fullgraph():
    crow, col, row = csr_block(41, 401, 0.05)
    u, v = factors(41, 401, 16)
    compiled = torch.compile(lambda u, v: sampled_dot(crow, col, u, v).square(), fullgraph=True, backend="aot_eager")
    grads = torch.autograd.grad(compiled(u, v).sum(), (u, v))
    expected = torch.autograd.grad(plain(row, col, u, v).square().sum(), (u, v))
    for actual, truth in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual, truth)


def test_sampled_dot_same_bits_for_any_thread_count(threads):
    crow, col, _ = csr_block(401, 1271, 0.1)
    u, v = factors(401, 1271, 64, torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        s = sampled_dot(crow, col, u, v)
        results.append((s, *torch.autograd.grad(s.square().sum(), (u, v))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"u": torch.zeros(2, 4)}, "u and v must have the same width, got 4 and 3"),
        ({"v": torch.zeros(5, 3, dtype=torch.float64)}, "u and v must have the same dtype, got Float and Double"),
        ({"u": torch.zeros(3, 3)}, r"crow must have 4 offsets for 3 rows, got 3"),
        ({"u": torch.zeros(6)}, r"u must be \[rows, d\]"),
        ({"col": torch.tensor([0, 5])}, r"col\[1\] = 5 is outside \[0, 5\)"),
        ({"col": torch.tensor([-1, 0])}, r"col\[0\] = -1 is outside"),
        ({"col": torch.tensor([0.0, 1.0])}, "indices must be int32 or int64, got Float"),
        ({"crow": torch.tensor([0, 3, 2])}, "crow must not decrease, but falls from 3 to 2 at row 1"),
        ({"crow": torch.tensor([0, 1, 1])}, "crow must run from 0 to nnz = 2, got 0 to 1"),
        ({"u": torch.zeros(2, 3).half(), "v": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16"),
    ],
)
def test_sampled_dot_refuses(change, message):
    arguments = {
        "crow": torch.tensor([0, 1, 2]),
        "col": torch.tensor([0, 4]),
        "u": torch.zeros(2, 3),
        "v": torch.zeros(5, 3),
    }
    with pytest.raises(ValueError, match="^sampled_dot: .*" + message):
        sampled_dot(**(arguments | change))
