"""csrc/cuda/sampled_dot on the emulator, against (u @ v.T)[row, col]; its gradients on CUDA, which are compositions."""

import pytest
import torch
from csr_blocks import csr_block, normal
from test_cuda_spmm import CHUNK, DTYPES, of_lengths, padded, without_gpu
from test_sampled_dot import SHAPES
from tolerances import assert_as_accurate

from mmssl_fast.ops.sampled_dot import _bwd_u_cuda, _bwd_v_cuda

pytestmark = pytest.mark.usefixtures("poison")


def plain(crow, col, u, v):
    row = torch.repeat_interleave(torch.arange(crow.numel() - 1), crow.diff())
    return (u[row] * v[col.long()]).sum(1)


def compare(emulated, crow, col, u, v):
    actual = emulated.sampled_dot(crow, col, u, v)
    assert_as_accurate(actual, plain(crow, col, u, v), plain(crow, col, u.double(), v.double()))
    return actual


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sampled_dot_shapes(emulated, shape, dtype, index):
    rows, items, d, share = shape
    crow, col, _ = csr_block(rows, items, share, index)
    compare(emulated, crow, col, normal(rows, d, dtype=dtype), normal(items, d, dtype=dtype, seed=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [0, 1, 2, 3, 4, 8, 16, 17, 33, 64, 100, 128, 130, 256, 512, 520])
def test_sampled_dot_widths(emulated, d, dtype):
    crow, col = of_lengths([5, 0, 31, 1, 2 * CHUNK + 3, 0, 17, CHUNK + 1], 40)
    compare(emulated, crow, col, normal(8, d, dtype=dtype), normal(40, d, dtype=dtype, seed=2))


@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 11 * CHUNK + 5])
@pytest.mark.parametrize("before", [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 7])
def test_sampled_dot_long_rows(emulated, length, before):
    crow, col = of_lengths([before, 0, length, 2, 0], 50)
    compare(emulated, crow, col, normal(5, 24), normal(50, 24, seed=2))


@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("lengths", [[0], [0, 0, 0], [3, 0, 40], [3, 700, 0]])
def test_sampled_dot_is_zero_at_padding(emulated, lengths, d):
    crow, col = of_lengths(lengths, 30)
    u, v = normal(len(lengths), d), normal(30, d, seed=2)
    s = emulated.sampled_dot(crow, padded(col, 2**31 - 1, 300), u, v)
    torch.testing.assert_close(s[: col.numel()], plain(crow, col, u, v))
    assert s.shape == (col.numel() + 300,) and not s[col.numel() :].any()


def test_sampled_dot_keeps_nan_to_its_entries(emulated):
    crow, col = of_lengths([3, 0, 9], 40)
    col.clamp_(min=1)
    u, v = normal(3, 12), normal(40, 12, seed=2)
    v[0] = u[1] = torch.nan  # the item an idle lane would read, a row without entries
    compare(emulated, crow, col, u, v)


@without_gpu
def test_sampled_dot_stops_at_bad_indices(emulated):
    crow, col = of_lengths([2, 3], 40)
    u, v = normal(2, 8), normal(40, 8)
    with pytest.raises(RuntimeError, match=r"sampled_dot.*device check failed: mine >= 0"):
        emulated.sampled_dot(crow, col.clone().fill_(40), u, v)
    with pytest.raises(RuntimeError, match=r"sampled_dot.*device check failed: begin <= end"):
        emulated.sampled_dot(crow, col[:4], u, v)


@pytest.mark.parametrize("pad", [0, 30])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_sampled_dot(shape, dtype, index, pad):
    rows, items, d, share = shape
    crow, col, _ = csr_block(rows, items, share, index)
    u, v = normal(rows, d, dtype=dtype), normal(items, d, dtype=dtype, seed=2)
    grad = normal(col.numel(), dtype=dtype, seed=3)
    arrays = crow, padded(col, 2**31 - 1, pad), padded(grad, torch.nan, pad)
    ops = torch.ops.mmssl_fast
    du, dv = ops.sampled_dot_bwd_u(crow, col, grad, v), ops.sampled_dot_bwd_v(crow, col, grad, u, items)
    truth = (
        ops.sampled_dot_bwd_u(crow, col, grad.double(), v.double()),
        ops.sampled_dot_bwd_v(crow, col, grad.double(), u.double(), items),
    )
    assert_as_accurate(_bwd_u_cuda(*arrays, v), du, truth[0])
    assert_as_accurate(_bwd_v_cuda(*arrays, u, items), dv, truth[1])
