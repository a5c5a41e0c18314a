"""csr_transpose as it is on CUDA (padded, in PyTorch's own ops), against the CPU op."""

import pytest
import torch
from csr_blocks import csr_block, normal
from test_cuda_spmm import of_lengths, padded

from mmssl_fast import static_shapes
from mmssl_fast.ops.csr_transpose import csr_transpose, transpose_padded
from mmssl_fast.ops.spmm import spmm_add_

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [2, 40, 401, 2**31 - 1, 2**33]


def on_device(*tensors):
    return [t.to(DEVICE) for t in tensors]


@pytest.mark.parametrize("pad", [0, 5, 300])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("n_cols", SIZES)
@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [3, 0, 7, 150], [401]])
def test_transpose_padded(lengths, n_cols, index, pad):
    if index == torch.int32 and n_cols > 2**31:
        pytest.skip("such columns need int64")
    crow, col = of_lengths(lengths, min(n_cols, 60), index)
    col = torch.where(col == 59, n_cols - 1, col).to(index)
    expected = torch.ops.mmssl_fast.csr_transpose(crow, col, n_cols)
    garbage = padded(col, torch.iinfo(index).max, pad)
    cols, t_crow, t_row, order = (t.cpu() for t in transpose_padded(*on_device(crow, garbage), n_cols))

    nnz, distinct = col.numel(), expected[0].numel()
    length = min(nnz + pad, n_cols)
    assert [t.dtype for t in (cols, t_crow, t_row, order)] == [torch.int64, torch.int64, index, torch.int64]
    assert [t.shape for t in (cols, t_crow, t_row, order)] == [(length,), (length + 1,), (nnz + pad,), (nnz + pad,)]
    for actual, real, n in zip((cols, t_crow, t_row, order), expected, (distinct, distinct + 1, nnz, nnz), strict=True):
        assert torch.equal(actual[:n], real)
    assert (t_crow[distinct:] == nnz).all() and (cols[distinct:] == n_cols - 1).all()
    assert (t_row[nnz:] == 0).all() and torch.equal(order[nnz:], torch.arange(nnz, nnz + pad))


def test_transpose_padded_of_no_columns():
    cols, t_crow, t_row, order = transpose_padded(
        torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), 0
    )
    assert t_crow.tolist() == [0] and cols.numel() == t_row.numel() == order.numel() == 0


def test_spmm_add_after_transpose_padded_scatters_to_columns():
    crow, col, row = csr_block(41, 401, 0.01, torch.int32)
    value, x = normal(col.numel()), normal(41, 16)
    garbage = padded(col, 2**31 - 1), padded(value, torch.nan)
    with static_shapes.forced():
        cols, t_crow, t_row, order = csr_transpose(crow, garbage[0], 401)
    assert cols.numel() > col.unique().numel()
    out = spmm_add_(torch.ones(401, 16, dtype=torch.float64), cols, t_crow, t_row, garbage[1][order], x)
    expected = torch.ones_like(out).index_add(0, col.long(), value[:, None] * x[row])
    torch.testing.assert_close(out, expected)


def test_fake_sizes_are_static_on_cuda():
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        crow = torch.empty(9, dtype=torch.int64, device="cuda")
        col = torch.empty(30, dtype=torch.int32, device="cuda")
        for n_cols, length in ((400, 30), (7, 7)):
            shapes = [tuple(t.shape) for t in torch.ops.mmssl_fast.csr_transpose(crow, col, n_cols)]
            assert shapes == [(length,), (length + 1,), (30,), (30,)]


@pytest.mark.parametrize(
    "crow, col, n_cols, message",
    [
        (torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 5, r"crow must be int64 \[rows \+ 1\]"),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int64), 5, r"crow must be int64 \[rows \+ 1\]"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), 5, "col must be int32 or int64"),
        (
            torch.zeros(2, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int64),
            -1,
            "n_cols must not be negative, got -1",
        ),
    ],
)
def test_transpose_padded_refuses(crow, col, n_cols, message):
    with pytest.raises(ValueError, match="^csr_transpose: " + message):
        transpose_padded(crow, col, n_cols)
