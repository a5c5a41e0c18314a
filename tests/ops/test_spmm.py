"""spmm, spmm_add_ and csr_transpose against index_add and torch.sort."""

import os
import subprocess
import sys

import pytest
import torch
from csr_blocks import csr_block, normal
from tolerances import assert_as_accurate

from mmssl_fast import build_info
from mmssl_fast.ops.csr_transpose import csr_transpose
from mmssl_fast.ops.spmm import spmm, spmm_add_

pytestmark = pytest.mark.usefixtures("poison")

# rows, columns, share of entries present
BLOCKS = [(41, 401, 0.05), (7, 1271, 0.01), (1, 50, 0.5), (33, 1, 0.5), (9, 11, 1.0), (9, 11, 0.0), (0, 11, 0.5)]
# every path of the inner loop for vectors of 4, 8 and 16 values
WIDTHS = [0, 1, 3, 4, 7, 8, 13, 16, 17, 31, 33, 48, 64, 65, 100, 129, 150, 192, 203]


def plain_spmm(crow, col, value, x, row_scale=None, col_scale=None):
    row = torch.repeat_interleave(torch.arange(crow.numel() - 1), crow.diff())
    gathered = (x if col_scale is None else col_scale[:, None].to(x.dtype) * x)[col.long()]
    if value is not None:
        gathered = value[:, None].to(x.dtype) * gathered
    y = x.new_zeros(crow.numel() - 1, x.shape[1]).index_add(0, row, gathered)
    return y if row_scale is None else row_scale[:, None].to(x.dtype) * y


def factors(rows, cols, nnz, dtype):
    return {
        "value": normal(nnz, dtype=dtype, seed=2),
        "row_scale": normal(rows, dtype=dtype, seed=3),
        "col_scale": normal(cols, dtype=dtype, seed=4),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("block", BLOCKS)
def test_spmm_block_shapes(block, dtype, index, weighted):
    crow, col, _ = csr_block(*block, index)
    rows, cols, _ = block
    x = normal(cols, 41, dtype=dtype)
    scales = factors(rows, cols, col.numel(), x.dtype) if weighted else {"value": None}
    exact = {k: None if v is None else v.double() for k, v in scales.items()}
    truth = plain_spmm(crow, col, x=x.double(), **exact)
    assert_as_accurate(spmm(crow, col, x=x, **scales), plain_spmm(crow, col, x=x, **scales), truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", WIDTHS)
def test_spmm_widths(d, dtype):
    crow, col, _ = csr_block(13, 40, 0.3)
    x = normal(40, d, dtype=dtype)
    truth = plain_spmm(crow, col, None, x.double())
    assert_as_accurate(spmm(crow, col, None, x), plain_spmm(crow, col, None, x), truth)
    out = normal(20, d, dtype=dtype, seed=7)
    rows = torch.arange(13) + 5
    expected = out.double().index_add(0, rows, truth)
    plain = out.index_add(0, rows, plain_spmm(crow, col, None, x))
    assert_as_accurate(spmm_add_(out.clone(), rows, crow, col, None, x), plain, expected)


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced", "offset rows"])
def test_spmm_strides(strides):
    crow, col, _ = csr_block(13, 40, 0.3)
    x = {
        "transposed": normal(33, 40).T,
        "expanded": normal(1, 33).expand(40, 33),
        "sliced": normal(40, 80)[:, 5:38],
        "offset rows": normal(45, 33)[5:],
    }[strides]
    torch.testing.assert_close(spmm(crow, col, None, x), plain_spmm(crow, col, None, x))


def test_spmm_takes_a_slice_of_a_longer_block():
    crow, col, _ = csr_block(13, 40, 0.3)
    x, value = normal(40, 8), normal(col.numel())
    whole = spmm(crow, col, value, x)
    assert torch.equal(spmm(crow[4:10], col, value, x), whole[4:9])


def test_spmm_factors_of_another_dtype_are_converted():
    crow, col, _ = csr_block(13, 40, 0.3)
    x, value = normal(40, 8), normal(col.numel(), dtype=torch.float32)
    assert torch.equal(spmm(crow, col, value, x), spmm(crow, col, value.double(), x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", WIDTHS)
def test_spmm_add_of_blocks_of_columns_has_the_bits_of_spmm(d, dtype):
    """The sum starts from `out`: adding to it at the end rounds differently in most of the entries."""
    crow, col, value = csr_block(29, 400, 0.2)
    value, x = normal(col.numel(), dtype=dtype, seed=2), normal(400, d, dtype=dtype)
    row = torch.repeat_interleave(torch.arange(29), crow.diff())
    out, end = torch.zeros(29, d, dtype=dtype), torch.zeros(29, d, dtype=dtype)
    for first, last in ((0, 7), (7, 7), (7, 260), (260, 400)):
        own = (col >= first) & (col < last)
        part = torch.nn.functional.pad(
            own.new_zeros(29, dtype=torch.int64).index_add(0, row, own.long()).cumsum(0), (1, 0)
        )
        block = part, (col - first)[own], value[own], x[first:last]
        spmm_add_(out, torch.arange(29), *block)
        end += spmm(*block)
    assert torch.equal(out, spmm(crow, col, value, x))
    assert not d or not torch.equal(end, out)


@pytest.mark.parametrize("ascending", [True, False])
def test_spmm_add_leaves_other_rows_and_columns_alone(ascending):
    crow, col, _ = csr_block(13, 40, 0.3)
    x, value = normal(40, 17), normal(col.numel())
    rows = torch.arange(13) * 2 if ascending else torch.randperm(26, generator=torch.Generator().manual_seed(0))[:13]
    storage = normal(26, 30, seed=5)
    before = storage.clone()
    assert spmm_add_(storage[:, 3:20], rows, crow, col, value, x).data_ptr() == storage[:, 3:].data_ptr()
    expected = before.clone()
    expected[:, 3:20].index_add_(0, rows, plain_spmm(crow, col, value, x))
    torch.testing.assert_close(storage, expected)
    kept = torch.ones(26, dtype=torch.bool)
    kept[rows] = False
    assert torch.equal(storage[kept], before[kept])


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("cols", [40, 2**21 + 5, 2**31 - 1])  # a table, two and three digits of the radix sort
@pytest.mark.parametrize("nnz", [0, 1, 300])
def test_csr_transpose_is_a_stable_sort(nnz, cols, index):
    random = torch.Generator().manual_seed(nnz)
    pool = torch.randint(0, cols, (60,), generator=random)
    col = pool[torch.randint(0, 60, (nnz,), generator=random)]
    row = torch.randint(0, 9, (nnz,), generator=random).sort().values
    crow = torch.searchsorted(row, torch.arange(10))
    by_col, order = torch.sort(col, stable=True)
    expected_cols, counts = torch.unique_consecutive(by_col, return_counts=True)

    cols_, t_crow, t_row, t_order = csr_transpose(crow, col.to(index), cols)
    assert t_row.dtype == index and cols_.dtype == t_crow.dtype == t_order.dtype == torch.int64
    assert torch.equal(t_order, order)
    assert torch.equal(t_row, row[order].to(index))
    assert torch.equal(cols_, expected_cols)
    assert torch.equal(t_crow, torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))))


def test_csr_transpose_then_spmm_add_scatters_to_columns():
    crow, col, row = csr_block(41, 401, 0.05, torch.int32)
    value, x = normal(col.numel()), normal(41, 16)
    cols, t_crow, t_row, order = csr_transpose(crow, col, 401)
    out = spmm_add_(torch.ones(401, 16, dtype=torch.float64), cols, t_crow, t_row, value[order], x)
    expected = torch.ones_like(out).index_add(0, col.long(), value[:, None] * x[row])
    torch.testing.assert_close(out, expected)


def test_same_bits_for_any_thread_count(threads):
    crow, col, _ = csr_block(401, 1271, 0.1, torch.int32)
    x, value = normal(1271, 64, dtype=torch.float32), normal(col.numel(), dtype=torch.float32)
    rows, results = torch.arange(401), []
    for count in (1, 2, 3, 7):
        threads(count)
        y = spmm(crow, col, value, x)
        results.append(torch.cat((y, spmm_add_(y.clone(), rows, crow, col, value, x))))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_one_row_with_almost_every_entry(threads):
    threads(3)
    crow = torch.tensor([0, 1, 1, 30001, 30001, 30002])
    col = torch.arange(30002) % 977
    x = normal(977, 24)
    torch.testing.assert_close(spmm(crow, col, None, x), plain_spmm(crow, col, None, x))


@pytest.mark.parametrize("isa", build_info()["isa_levels"])
def test_every_instruction_set(isa):
    script = (
        "import torch, test_spmm as t\n"
        "for dtype in (torch.float32, torch.float64, torch.bfloat16):\n"
        "    for d in t.WIDTHS:\n"
        "        t.test_spmm_widths(d, dtype)\n"
    )
    if build_info()["isa_levels"].index(isa) > build_info()["isa_levels"].index(build_info()["isa"]):
        pytest.skip(f"this processor has no {isa}")
    environment = {**os.environ, "MMSSL_FAST_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-P", "-c", script], env=environment, check=True)


@pytest.mark.parametrize("share", [0.4, 0.0])
def test_opcheck(share):
    ops = torch.ops.mmssl_fast
    crow, col, _ = csr_block(5, 7, share)
    scales = factors(5, 7, col.numel(), torch.float64)
    x = normal(7, 3)
    torch.library.opcheck(ops.spmm, (crow, col, scales["value"], scales["row_scale"], scales["col_scale"], x))
    torch.library.opcheck(ops.spmm, (crow, col, None, None, None, x))
    torch.library.opcheck(ops.spmm_add_, (torch.zeros(9, 3), torch.arange(5), crow, col, None, x.float()))
    torch.library.opcheck(ops.csr_transpose, (crow, col, 7))


def test_compiles_fullgraph():
    crow, col, _ = csr_block(41, 401, 0.05)
    x = normal(401, 16)

    def scatter(crow, col, x):
        y = spmm(crow, col, None, x)
        cols, t_crow, t_row, _ = csr_transpose(crow, col, 401)
        return spmm_add_(x.clone(), cols, t_crow, t_row, None, y)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(scatter, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(crow, col, x), scatter(crow, col, x))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3)}, r"x must be \[rows, d\]|x \[rows, d\]"),
        ({"x": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16, got Half"),
        ({"value": torch.zeros(3)}, r"value must be \[2\], got \[3\]"),
        ({"value": torch.zeros(2, dtype=torch.int64)}, "value must be floating, got Long"),
        ({"row_scale": torch.zeros(3)}, r"row_scale must be \[2\], got \[3\]"),
        ({"col_scale": torch.zeros(3)}, r"col_scale must be \[5\], got \[3\]"),
        ({"col": torch.tensor([0, 5])}, r"col\[1\] = 5 is outside \[0, 5\)"),
        ({"col": torch.tensor([-1, 0], dtype=torch.int32)}, r"col\[0\] = -1 is outside"),
        ({"col": torch.tensor([0.0, 1.0])}, "indices must be int32 or int64, got Float"),
        ({"crow": torch.tensor([0, 2, 1])}, "crow must not decrease, but falls from 2 to 1 at row 1"),
        ({"crow": torch.tensor([0, 1, 3])}, r"the offsets in crow must be in \[0, 2\]"),
        ({"crow": torch.tensor([-1, 1, 2])}, r"the offsets in crow must be in \[0, 2\]"),
        ({"crow": torch.tensor([0, 1, 2], dtype=torch.int32)}, "crow must be contiguous int64"),
        ({"crow": torch.zeros(0, dtype=torch.int64)}, r"crow must be \[rows \+ 1\]"),
    ],
)
def test_spmm_refuses(change, message):
    arguments = {
        "crow": torch.tensor([0, 1, 2]),
        "col": torch.tensor([0, 4]),
        "value": None,
        "x": torch.zeros(5, 3),
    }
    with pytest.raises(ValueError, match="^spmm: .*(" + message + ")"):
        spmm(**(arguments | change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": torch.tensor([0, 4])}, r"rows\[1\] = 4 is outside \[0, 4\)"),
        ({"rows": torch.tensor([2, 2])}, r"rows must be distinct, but rows\[1\] = 2 repeats an earlier row"),
        ({"rows": torch.tensor([1])}, r"rows must be contiguous int64 \[2\]"),
        ({"out": torch.zeros(4, 2)}, r"total must be \[rows, 3\]|must be \[rows, 3\]"),
        ({"out": torch.zeros(4, 3, dtype=torch.float64)}, "must have the dtype of x, Float, got Double"),
        ({"out": torch.zeros(3, 4).T}, "contiguous rows that do not overlap"),
        ({"out": torch.zeros(1, 3).expand(4, 3)}, "rows that do not overlap"),
        ({"col": torch.tensor([0, 5])}, r"col\[1\] = 5 is outside \[0, 5\)"),
    ],
)
def test_spmm_add_refuses_and_leaves_out_alone(change, message):
    arguments = {
        "out": torch.zeros(4, 3),
        "rows": torch.tensor([0, 3]),
        "crow": torch.tensor([0, 1, 2]),
        "col": torch.tensor([0, 4]),
        "value": None,
        "x": torch.ones(5, 3),
    } | change
    with pytest.raises(ValueError, match="^spmm_add_: .*(" + message + ")"):
        spmm_add_(**arguments)
    assert not arguments["out"].any()


def test_gradients_are_refused():
    crow, col, _ = csr_block(5, 7, 0.4)
    x = normal(7, 3).requires_grad_()
    with pytest.raises(RuntimeError, match=r"^spmm is not differentiable"):
        spmm(crow, col, None, x)
    with pytest.raises(RuntimeError, match=r"^spmm_add_ is not differentiable"):
        spmm_add_(torch.zeros(5, 3, dtype=torch.float64), torch.arange(5), crow, col, None, x)


@pytest.mark.parametrize(
    "crow, col, n_cols, message",
    [
        ([0, 2], [0, 5], 5, r"col\[1\] = 5 is outside \[0, 5\)"),
        ([0, 2], [-1, 0], 5, r"col\[0\] = -1 is outside"),
        ([0, 1], [0, 1], 5, "crow must run from 0 to nnz = 2"),
        ([], [0, 1], 5, r"crow must be \[rows \+ 1\]"),
        ([0, 2], [0, 1], -1, "n_cols must not be negative, got -1"),
    ],
)
def test_csr_transpose_refuses(crow, col, n_cols, message):
    with pytest.raises(ValueError, match="^csr_transpose: " + message):
        csr_transpose(torch.tensor(crow, dtype=torch.int64), torch.tensor(col), n_cols)
