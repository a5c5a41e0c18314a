"""coo_to_csr and coo_to_csr_values, and what CUDA uses instead of their kernels, against torch.argsort."""

import pytest
import torch
from torch.testing import assert_close

from mmssl_fast.ops.coo_to_csr import coo_to_csr, coo_to_csr_values, sort_composed, sort_values_composed

FORMS = {"kernel": coo_to_csr, "composed": sort_composed}
VALUE_FORMS = {"kernel": coo_to_csr_values, "composed": sort_values_composed}
SIZES = [(0, 0, 0), (0, 4, 3), (1, 1, 1), (7, 1, 5), (401, 41, 1271), (900, 9, 7)]


def coordinates(nnz, n_rows, n_cols, index=torch.int64, ascending=False):
    random = torch.Generator().manual_seed(nnz)
    row, col = (torch.randint(max(n, 1), (nnz,), generator=random).to(index) for n in (n_rows, n_cols))
    return (row.sort().values if ascending else row), col


def offsets(ids, n):
    return torch.cat((torch.zeros(1, dtype=torch.int64), torch.bincount(ids, minlength=n).cumsum(0)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("nnz, n_rows, n_cols", SIZES)
def test_both_sorts_are_stable(nnz, n_rows, n_cols, index, ascending, form, poison):
    row, col = coordinates(nnz, n_rows, n_cols, index, ascending)
    order = torch.argsort(row, stable=True)
    t_order = order[torch.argsort(col[order], stable=True)]
    actual = FORMS[form](row, col, n_rows, n_cols)
    expected = (
        offsets(row, n_rows),
        col[order].int(),
        order.int(),
        offsets(col, n_cols),
        row[t_order].int(),
        t_order.int(),
    )
    for found, wanted in zip(actual, expected, strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("form", VALUE_FORMS)
@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("nnz, n_rows, n_cols", SIZES)
def test_values_are_sorted_as_the_entries(nnz, n_rows, n_cols, index, dtype, ascending, form, poison):
    row, col = coordinates(nnz, n_rows, n_cols, index, ascending)
    value = torch.randn(nnz, generator=torch.Generator().manual_seed(nnz)).to(dtype)
    crow, by_row, order, t_crow, by_col, t_order = sort_composed(row, col, n_rows, n_cols)
    actual = VALUE_FORMS[form](row, col, value, n_rows, n_cols)
    for found, wanted in zip(actual, (crow, by_row, value[order], t_crow, by_col, value[t_order]), strict=True):
        assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_indices_beyond_int32(form):
    row, col = torch.tensor([1, 0, 1]), torch.tensor([2, 1, 2])
    empty = torch.zeros(0, dtype=torch.int64)
    assert FORMS[form](row, col, 2, 3)[1].dtype == torch.int32
    fake = torch._subclasses.FakeTensorMode()
    with fake:
        made = coo_to_csr(*(torch.empty(3, dtype=torch.int64) for _ in range(2)), 2**31, 3)
    assert [x.dtype for x in made] == [torch.int64] * 6 and made[0].shape == (2**31 + 1,)
    assert FORMS[form](empty, empty, 2, 3)[0].tolist() == [0, 0, 0]


def test_strided_rows_of_indices():
    row, col = coordinates(50, 6, 9)
    both = torch.stack((row, col), 1)
    for found, wanted in zip(coo_to_csr(both[:, 0], both[:, 1], 6, 9), coo_to_csr(row, col, 6, 9), strict=True):
        assert torch.equal(found, wanted)

    both = torch.stack((row, col)).double()  # strided values
    values = both.t()[:, 1], both[1].clone()
    for found, wanted in zip(*(coo_to_csr_values(row, col, value, 6, 9) for value in values), strict=True):
        assert torch.equal(found, wanted)


def test_opcheck():
    ops = torch.ops.mmssl_fast
    for ascending in (False, True):
        row, col = coordinates(30, 5, 7, ascending=ascending)
        torch.library.opcheck(ops.coo_to_csr, (row, col, 5, 7))
        torch.library.opcheck(ops.coo_to_csr_values, (row, col, torch.randn(30), 5, 7))


@pytest.mark.parametrize(
    "row, col, sizes, message",
    [
        ([0, 5], [0, 1], (5, 2), r"row\[1\] = 5 is outside \[0, 5\)"),
        ([0, -1], [0, 1], (5, 2), r"row\[1\] = -1 is outside"),
        ([0, 1], [2, 0], (5, 2), r"col\[0\] = 2 is outside \[0, 2\)"),
        ([0], [0, 1], (5, 2), r"row and col must be \[nnz\] of the same dtype, got .* \[1\] and .* \[2\]"),
        ([0, 1], [0.0, 1.0], (5, 2), "row and col must be"),
        ([0.0, 1.0], [0.0, 1.0], (5, 2), "indices must be int32 or int64, got"),
        ([], [], (-1, 2), "n_rows and n_cols must not be negative, got -1 and 2"),
    ],
)
def test_refuses(row, col, sizes, message):
    row, col = (torch.tensor(x, dtype=None if x else torch.int64) for x in (row, col))
    on_cpu_alone = "outside" in message
    for form in [coo_to_csr] if on_cpu_alone else FORMS.values():
        with pytest.raises(ValueError, match="^coo_to_csr: " + message):
            form(row, col, *sizes)
    for form in [coo_to_csr_values] if on_cpu_alone else VALUE_FORMS.values():
        with pytest.raises(ValueError, match="^coo_to_csr_values: " + message):
            form(row, col, torch.ones(len(row)), *sizes)


@pytest.mark.parametrize("form", VALUE_FORMS)
def test_refuses_values(form):
    row = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"^coo_to_csr_values: value must be \[nnz\] as row is, \[2\], got \[3\]"):
        VALUE_FORMS[form](row, row, torch.ones(3), 2, 2)
    with pytest.raises(ValueError, match=r"^coo_to_csr_values: values must be float32, float64 or bfloat16, got"):
        VALUE_FORMS[form](row, row, torch.ones(2, dtype=torch.int64), 2, 2)
