"""The Triton kernels of gumbel_linear: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from csr_blocks import normal, random_graph
from tolerances import assert_as_accurate

from mmssl_fast import reference

pytest.importorskip("triton", reason="triton is not installed")
import triton
import triton.language as tl

from mmssl_fast.kernels.gumbel_linear import MAX_COLUMNS, gumbel_linear, gumbel_linear_bwd
from mmssl_fast.kernels.gumbel_noise import gumbel_from_bits, philox_tile
from mmssl_fast.kernels.launch import launch
from mmssl_fast.ops import _triton
from mmssl_fast.ops import gumbel_linear as ops
from mmssl_fast.ops.philox import philox_bits

pytestmark = pytest.mark.usefixtures("poison")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# users, items, share of items seen, columns of the weight: several tiles, one row, one item, nothing seen, everything,
# no rows, no items, no columns
CASES = [(70, 45, 0.05, 5), (1, 50, 0.5, 3), (5, 1, 0.5, 2), (3, 41, 0.0, 20), (3, 33, 1.0, 2)]


@triton.jit
def noise_kernel(
    rows_ptr, seed_offset_ptr, bits_ptr, noise_ptr, first, ROWS: tl.constexpr, WIDTH: tl.constexpr, STREAM: tl.constexpr
):
    row, column = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    user, seed, offset = tl.load(rows_ptr + row), tl.load(seed_offset_ptr), tl.load(seed_offset_ptr + 1)
    bits = philox_tile(seed, offset, user, first, STREAM, WIDTH)
    at = row[:, None] * WIDTH + column[None, :]
    tl.store(bits_ptr + at, bits.to(tl.int64))
    tl.store(noise_ptr + at, gumbel_from_bits(bits))


@triton.jit
def gumbel_kernel(bits_ptr, noise_ptr, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    tl.store(noise_ptr + at, gumbel_from_bits(tl.load(bits_ptr + at).to(tl.uint32)))


@pytest.mark.parametrize("seed, offset", [(0, 0), (-1, 2**32 - 1), (0x0123456789ABCDEF, 7)])
def test_noise_is_the_cpu_s(seed, offset):
    """The same integers, and Gumbel values to 2 units in the last place of their logarithm."""
    rows, width, first = torch.tensor([0, 5, 2**31 + 3, 2**32 - 1]), 64, 1 << 20
    bits, noise = torch.empty(4, width, dtype=torch.int64), torch.empty(4, width)
    outputs = [x.to(DEVICE) for x in (rows, torch.tensor([seed, offset]), bits, noise)]
    launch(noise_kernel, (1,), *outputs, first, ROWS=4, WIDTH=width, STREAM=3)
    expected = philox_bits(seed, offset, rows, first + width, 3)[:, first:]
    assert torch.equal(outputs[2].cpu(), expected)
    assert torch.equal(expected[:2, :4], reference.philox_bits(seed, offset, rows[:2], first + 4, 3)[:, first:])
    exact = -torch.log(reference.exponential_from_bits(expected).double())
    torch.testing.assert_close(outputs[3].cpu().double(), exact, atol=3e-7, rtol=3e-7)


def test_noise_at_the_ends_of_its_range():
    bits = torch.tensor([[0, 1, 100, 1000, 5000, 2**20, 2**31, 2**32 - 1] * 2])
    v = (bits.double() + 0.5) * 2.0**-32
    exact = -torch.log(-torch.log1p(-v.clamp(max=1 - 2.0**-24)))

    noise = torch.empty(16, device=DEVICE)
    launch(gumbel_kernel, (1,), bits.to(DEVICE), noise, WIDTH=16)
    torch.testing.assert_close(noise.cpu().double(), exact.flatten(), atol=3e-7, rtol=3e-7)


def operands(users, items, share, columns, item_major=True):
    graph = random_graph(users, items, share)
    ids = torch.cat((torch.arange(users).flip(0), torch.zeros(1, dtype=torch.int64)))
    weight = normal(items, columns, dtype=torch.float32).T
    grad = normal(users + 1, columns, seed=3, dtype=torch.float32)
    return graph, ids, weight if item_major else weight.contiguous(), grad


def by_kernels(graph, ids, weight, grad, tau, scale):
    lse = reference.gumbel_logits(
        graph.crow.new_tensor([0, *graph.user_degree[ids].cumsum(0).tolist()]),
        graph.rows(ids).col,
        ids,
        graph.n_items,
        tau,
        5,
        2,
        scale,
        torch.float64,
    ).logsumexp(1)
    where = [x.to(DEVICE) for x in (graph.crow, torch.cat((graph.col, graph.col.new_zeros(3))), ids, lse)]
    noise = tau, torch.tensor([5, 2], device=DEVICE), scale
    y = gumbel_linear(weight.to(DEVICE), *where, *noise)
    return [y, gumbel_linear_bwd(grad.to(DEVICE), *where, graph.n_items, *noise)]


def by_reference(graph, ids, weight, grad, tau, scale, dtype):
    rows = reference.gumbel_softmax(graph, ids, tau, 5, 2, noise_scale=scale, dtype=dtype).to(DEVICE)
    return [rows @ weight.to(DEVICE, dtype).mT, rows.mT @ grad.to(DEVICE, dtype)]


@pytest.mark.parametrize("tau, scale", [(0.3, 1.0), (0.02, 1.0), (0.5, 0.0)])
@pytest.mark.parametrize("case", CASES[:1])
def test_temperatures(case, tau, scale):
    check(operands(*case), tau, scale)


@pytest.mark.parametrize("case", CASES[1:])
def test_shapes(case):
    check(operands(*case, item_major=False), 0.3, 1.0)


def check(inputs, tau, scale):
    actual = by_kernels(*inputs, tau, scale)
    plain = by_reference(*inputs, tau, scale, torch.float32)
    truth = by_reference(*inputs, tau, scale, torch.float64)
    for parts in zip(actual, plain, truth, strict=True):
        # Noise is right to 2e-7, and weights are its exponential over tau.
        assert_as_accurate(*parts, tiny=4e-7 / tau * parts[2].abs().max().item() if parts[2].numel() else 0)


def test_no_rows_and_no_columns():
    graph, ids, weight, grad = operands(3, 41, 0.1, 2)
    for y, x in ((weight, grad[:0]), (weight[:0], grad[:, :0])):
        out, back = by_kernels(graph, ids[: len(x)], y, x, 0.3, 1.0)
        assert out.shape == (len(x), len(y)) and back.shape == (41, len(y)) and not back.any()


def test_refuses_more_columns_than_a_program_keeps():
    with pytest.raises(
        ValueError, match=r"^gumbel_linear: there may be at most 128 columns of float32 or bfloat16, got 130"
    ):
        by_kernels(*operands(3, 41, 0.1, 130), 0.3, 1.0)


@pytest.mark.parametrize(
    "columns, dtype, method",
    [
        (5, torch.float32, "dense"),
        (5, torch.float64, "dense"),
        (MAX_COLUMNS + 1, torch.float32, "dense"),
        (5, torch.float32, "order_statistics"),
    ],
)
def test_the_cuda_op_chooses_by_shape(columns, dtype, method, monkeypatch):
    """What is registered for CUDA, here on whatever device there is, against the public op."""
    graph, ids, weight, grad = operands(8, 41, 0.1, columns)
    graph, ids, weight, grad = graph.to(DEVICE), ids.to(DEVICE), weight.to(DEVICE, dtype), grad.to(DEVICE, dtype)
    used = []
    kernel = _triton.kernel
    monkeypatch.setattr(_triton, "kernel", lambda op: used.append(op) or kernel(op))
    sparse = method == "order_statistics"
    noise = 0.3, torch.tensor([5, 2], device=DEVICE), 1.0, sparse, 9 * 41 if sparse else 0
    y = ops.gumbel_linear_cuda(weight, graph.crow, graph.col, ids, *noise)
    back = ops.gumbel_linear_bwd_cuda(grad, graph.crow, graph.col, ids, 41, *noise)
    rows = ops.GumbelRows(graph, ids, 0.3, 5, 2, method=method).dense().to(dtype)
    torch.testing.assert_close(y, rows @ weight.mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back, rows.mT @ grad, atol=1e-5, rtol=1e-5)
    one_pass = method == "dense" and dtype == torch.float32 and columns <= MAX_COLUMNS
    assert used == (["gumbel_linear", "gumbel_linear_bwd"] if one_pass else [])
    assert ops.ONE_PASS_COLUMNS == MAX_COLUMNS
