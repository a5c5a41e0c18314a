"""csrc/cuda/spmm on the emulator, against the CPU op and index_add."""

import pytest
import torch
from csr_blocks import csr_block, normal
from test_spmm import BLOCKS, factors, plain_spmm
from tolerances import assert_as_accurate

pytestmark = pytest.mark.usefixtures("poison")

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
FACTORS = ("value", "row_scale", "col_scale")
CHUNK = 128  # csrc/cuda/chunks.h
# one value a lane and 16 bytes a lane; teams of 8, 16 and 32 lanes; one, two and four strips; two tiles
WIDTHS = [0, 1, 2, 3, 4, 8, 16, 17, 33, 64, 72, 100, 128, 130, 192, 256, 260, 512, 520, 1032]


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a device-side assertion would end CUDA's context")


def of_lengths(lengths, n_cols, index=torch.int32, seed=0):
    """crow, col of rows of these lengths, columns with repeats."""
    crow = torch.tensor([0, *lengths]).cumsum(0)
    random = torch.Generator().manual_seed(seed)
    return crow, torch.randint(0, n_cols, (int(crow[-1]),), generator=random, dtype=index)


def padded(tensor, value, by=77):
    return torch.cat((tensor, torch.full((by,), value, dtype=tensor.dtype)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", BLOCKS)
def test_spmm_block_shapes(emulated, block, dtype, index, weighted):
    crow, col, _ = csr_block(*block, index)
    rows, cols, _ = block
    for d in (41, 64):
        x = normal(cols, d, dtype=dtype)
        scales = factors(rows, cols, col.numel(), x.dtype) if weighted else dict.fromkeys(FACTORS)
        exact = {k: None if v is None else v.double() for k, v in scales.items()}
        truth = plain_spmm(crow, col, x=x.double(), **exact)
        actual = emulated.spmm(crow, col, *(scales[name] for name in FACTORS), x)
        assert_as_accurate(actual, plain_spmm(crow, col, x=x, **scales), truth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
def test_spmm_widths(emulated, d, dtype):
    crow, col = of_lengths([5, 0, 31, 1, 2 * CHUNK + 3, 0, 17, CHUNK + 1], 40)
    x, value = normal(40, d, dtype=dtype), normal(col.numel(), dtype=dtype, seed=2)
    truth = plain_spmm(crow, col, value.double(), x.double())
    plain = plain_spmm(crow, col, value, x)
    assert_as_accurate(emulated.spmm(crow, col, value, None, None, x), plain, truth)
    out, rows = normal(20, d, dtype=dtype, seed=7), torch.tensor([3, 19, 0, 7, 4, 5, 1, 11])
    actual = out.clone()
    emulated.spmm_add_(actual, rows, crow, col, value, x)
    assert_as_accurate(actual, out.index_add(0, rows, plain), out.double().index_add(0, rows, truth))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1, 11 * CHUNK + 5])
def test_spmm_long_rows_have_the_same_bits_wherever_they_lie(emulated, length, dtype):
    x = normal(50, 24, dtype=dtype)
    crow, col = of_lengths([length], 50)
    value = normal(length, dtype=dtype, seed=2)
    alone = emulated.spmm(crow, col, value, None, None, x)
    assert_as_accurate(alone, plain_spmm(crow, col, value, x), plain_spmm(crow, col, value.double(), x.double()))
    for before in (1, CHUNK - 1, CHUNK, 3 * CHUNK + 7):
        other_crow, other_col = of_lengths([before, 0, length, 2, 0], 50, seed=1)
        other_value = normal(other_col.numel(), dtype=dtype, seed=3)
        other_col[before : before + length], other_value[before : before + length] = col, value
        y = emulated.spmm(other_crow, other_col, other_value, None, None, x)
        assert torch.equal(y[2], alone[0])
        assert_as_accurate(
            y,
            plain_spmm(other_crow, other_col, other_value, x),
            plain_spmm(other_crow, other_col, other_value.double(), x.double()),
        )


@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("lengths", [[3, 0, 40], [3, 700, 0]])
def test_spmm_never_reads_padding(emulated, lengths, d):
    crow, col = of_lengths(lengths, 30)
    x, value = normal(30, d), normal(col.numel())
    y = emulated.spmm(crow, padded(col, 2**31 - 1), padded(value, torch.nan), None, None, x)
    assert torch.equal(y, emulated.spmm(crow, col, value, None, None, x))


def test_spmm_takes_a_slice_of_a_longer_block(emulated):
    crow, col = of_lengths([200, 3, 0, 300, 1, 140], 40)
    x, value = normal(40, 8), normal(col.numel())
    whole = emulated.spmm(crow, col, value, None, None, x)
    assert torch.equal(emulated.spmm(crow[1:5], col, value, None, None, x), whole[1:4])


@pytest.mark.parametrize("strides", ["transposed", "expanded", "sliced", "sliced and aligned", "offset rows"])
def test_spmm_strides(emulated, strides):
    crow, col, _ = csr_block(13, 40, 0.3)
    x = {
        "transposed": normal(32, 40).T,
        "expanded": normal(1, 32).expand(40, 32),
        "sliced": normal(40, 80)[:, 5:37],
        "sliced and aligned": normal(40, 80)[:, 4:36],
        "offset rows": normal(45, 33)[5:, :32],
    }[strides]
    torch.testing.assert_close(emulated.spmm(crow, col, None, None, None, x), plain_spmm(crow, col, None, x))


@pytest.mark.parametrize("d", [1, 2, 12, 64])
def test_spmm_keeps_nan_and_infinity_to_the_rows_they_belong_to(emulated, d):
    crow, col = of_lengths([3, 0, 1, 9, 150], 40)
    col.clamp_(min=1)
    x, value = normal(40, d, dtype=torch.float32), normal(col.numel(), dtype=torch.float32)
    x[0] = torch.nan  # what an idle lane would read
    value[2] = torch.inf
    y = emulated.spmm(crow, col, value, None, None, x)
    assert y[0].isinf().all()
    torch.testing.assert_close(y[1:], plain_spmm(crow, col, value, x)[1:])


def test_spmm_add_leaves_other_rows_and_columns_alone(emulated):
    crow, col = of_lengths([0, 3, 200, 0, 12], 40)
    x, value = normal(40, 16), normal(col.numel())
    rows = torch.tensor([9, 21, 5, 13, 1])
    storage = normal(26, 30, seed=5)
    before = storage.clone()
    for columns in (slice(3, 19), slice(4, 20)):  # unaligned and aligned
        expected = storage.clone()
        expected[:, columns].index_add_(0, rows, plain_spmm(crow, col, value, x))
        emulated.spmm_add_(storage[:, columns], rows, crow, col, value, x)
        torch.testing.assert_close(storage, expected)
    kept = torch.ones(26, dtype=torch.bool)
    kept[rows[[1, 2, 4]]] = False
    assert torch.equal(storage[kept], before[kept])


def test_spmm_add_passes_over_rows_without_entries(emulated):
    crow, col = of_lengths([2, 150], 40)
    x, value, out = normal(40, 16), normal(col.numel()), normal(9, 16, seed=5)
    expected = out.clone().index_add_(0, torch.tensor([2, 7]), plain_spmm(crow, col, value, x))
    rows = torch.tensor([2, 7, 9, -1, 9])  # there is no row 9, and nobody is to look
    crow = torch.cat((crow, crow[-1:].expand(3)))
    emulated.spmm_add_(out, rows, crow, padded(col, -1), padded(value, torch.nan), x)
    torch.testing.assert_close(out, expected)


@without_gpu
@pytest.mark.parametrize("bad", [-1, 40])
@pytest.mark.parametrize("at", [0, 300])
def test_spmm_stops_at_a_column_outside_x(emulated, bad, at):
    crow, col = of_lengths([2, 400], 40)
    col[at] = bad
    with pytest.raises(RuntimeError, match=r"spmm.*device check failed: mine >= 0"):
        emulated.spmm(crow, col, None, None, None, normal(40, 16))


@without_gpu
def test_spmm_stops_at_offsets_beyond_col_and_at_rows_outside_out(emulated):
    crow, col = of_lengths([2, 3], 40)
    x, out = normal(40, 16), torch.zeros(5, 16, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"spmm.*device check failed: begin >= 0"):
        emulated.spmm(crow, col[:4], None, None, None, x)
    with pytest.raises(RuntimeError, match=r"spmm_add_.*device check failed: target >= 0"):
        emulated.spmm_add_(out, torch.tensor([0, 5]), crow, col, None, x)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16, got Half"),
        ({"value": torch.zeros(3)}, r"value must be \[2\], got \[3\]"),
        ({"col_scale": torch.zeros(3)}, r"col_scale must be \[5\], got \[3\]"),
        ({"col": torch.tensor([0.0, 1.0])}, "indices must be int32 or int64, got Float"),
        ({"crow": torch.tensor([0, 1, 2], dtype=torch.int32)}, "crow must be contiguous int64"),
    ],
)
def test_spmm_refuses(emulated, change, message):
    arguments = {
        "crow": torch.tensor([0, 1, 2]),
        "col": torch.tensor([0, 4]),
        "value": None,
        "row_scale": None,
        "col_scale": None,
        "x": torch.zeros(5, 3),
    }
    with pytest.raises(ValueError, match="^spmm: .*(" + message + ")"):
        emulated.spmm(*(arguments | change).values())
