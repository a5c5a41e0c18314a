"""coo_to_csr and coo_to_csr_values: the CSR and the transposed CSR of coordinates."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..graph import offsets_of

_INT32_MAX = 2**31 - 1


def coo_to_csr(
    row: Tensor, col: Tensor, n_rows: int, n_cols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Equals ``order = torch.argsort(row, stable=True)``, ``t_order = order[torch.argsort(col[order], stable=True)]``,
    ``col[order]``, ``row[t_order]``, and the offsets of both.

    On the CPU, both sorts count: they take O(nnz + n_rows + n_cols) time, some nanoseconds an entry together.

    Args:
        row, col: int32 or int64 [nnz], in [0, n_rows) and [0, n_cols), in any order. Repeated entries are kept.

    Returns:
        crow: int64 [n_rows + 1].
        col_by_row: [nnz], the columns sorted by row.
        order: [nnz], the entry that each of these is.
        t_crow: int64 [n_cols + 1].
        row_by_col: [nnz], the rows sorted by column.
        t_order: [nnz], the entry that each of these is.

        Indices and orders are int32 if nnz, n_rows and n_cols fit, else int64.

    Raises:
        ValueError: dtypes or shapes are wrong, or, on the CPU only, an index is out of range.
    """
    return torch.ops.mmssl_fast.coo_to_csr(row, col, n_rows, n_cols)


def coo_to_csr_values(
    row: Tensor, col: Tensor, value: Tensor, n_rows: int, n_cols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Equals `coo_to_csr` with ``value[order]`` and ``value[t_order]`` in the place of the orders.

    It does not form the orders.

    Args:
        row, col: as for `coo_to_csr`.
        value: [nnz], float32, float64 or bfloat16. Gradients are not supported.

    Returns:
        crow int64 [n_rows + 1], col_by_row [nnz], value_by_row [nnz], t_crow int64 [n_cols + 1], row_by_col [nnz],
        value_by_col [nnz].

    Raises:
        ValueError: as `coo_to_csr`, or value has another shape or dtype.

    Example:
        >>> row, col = torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0])
        >>> crow, ids, value, *_ = coo_to_csr_values(row, col, torch.tensor([5.0, 6.0, 7.0]), 2, 2)
        >>> crow.tolist(), ids.tolist(), value.tolist()
        ([0, 2, 3], [1, 0, 0], [6.0, 7.0, 5.0])
    """
    return torch.ops.mmssl_fast.coo_to_csr_values(row, col, value, n_rows, n_cols)


def sort_composed(
    row: Tensor, col: Tensor, n_rows: int, n_cols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The form of `coo_to_csr` that CUDA uses, composed of PyTorch operations, on any device."""
    _check(row, col, n_rows, n_cols)
    out = _index_dtype(row.shape[0], n_rows, n_cols)
    order = torch.argsort(row, stable=True)
    by_row = col[order]
    t_order = order[torch.argsort(by_row, stable=True)]
    crow, t_crow = (offsets_of(torch.bincount(ids, minlength=n)) for ids, n in ((row, n_rows), (col, n_cols)))
    return crow, by_row.to(out), order.to(out), t_crow, row[t_order].to(out), t_order.to(out)


def sort_values_composed(
    row: Tensor, col: Tensor, value: Tensor, n_rows: int, n_cols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The form of `coo_to_csr_values` that CUDA uses, composed of PyTorch operations, on any device."""
    _check(row, col, n_rows, n_cols, "coo_to_csr_values")
    _check_value(value, row)
    crow, by_row, order, t_crow, by_col, t_order = sort_composed(row, col, n_rows, n_cols)
    return crow, by_row, value[order], t_crow, by_col, value[t_order]


def _index_dtype(*sizes: int) -> torch.dtype:
    return torch.int32 if all(size <= _INT32_MAX for size in sizes) else torch.int64


def _check(row: Tensor, col: Tensor, n_rows: int, n_cols: int, op: str = "coo_to_csr") -> None:
    if row.ndim != 1 or row.shape != col.shape or row.dtype != col.dtype:
        raise ValueError(
            f"{op}: row and col must be [nnz] of the same dtype, got {row.dtype} {list(row.shape)} and "
            f"{col.dtype} {list(col.shape)}"
        )
    if row.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{op}: indices must be int32 or int64, got {row.dtype}")
    if n_rows < 0 or n_cols < 0:
        raise ValueError(f"{op}: n_rows and n_cols must not be negative, got {n_rows} and {n_cols}")


def _check_value(value: Tensor, row: Tensor) -> None:
    if value.shape != row.shape:
        raise ValueError(
            f"coo_to_csr_values: value must be [nnz] as row is, {list(row.shape)}, got {list(value.shape)}"
        )
    if value.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise ValueError(f"coo_to_csr_values: values must be float32, float64 or bfloat16, got {value.dtype}")


torch.library.impl("mmssl_fast::coo_to_csr", "cuda", sort_composed)
torch.library.impl("mmssl_fast::coo_to_csr_values", "cuda", sort_values_composed)


@torch.library.register_fake("mmssl_fast::coo_to_csr")
def _(row: Tensor, col: Tensor, n_rows: int, n_cols: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    nnz, out = row.shape[0], _index_dtype(row.shape[0], n_rows, n_cols)
    return (
        row.new_empty(n_rows + 1, dtype=torch.int64),
        row.new_empty(nnz, dtype=out),
        row.new_empty(nnz, dtype=out),
        row.new_empty(n_cols + 1, dtype=torch.int64),
        row.new_empty(nnz, dtype=out),
        row.new_empty(nnz, dtype=out),
    )


@torch.library.register_fake("mmssl_fast::coo_to_csr_values")
def _(
    row: Tensor, col: Tensor, value: Tensor, n_rows: int, n_cols: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    nnz, out = row.shape[0], _index_dtype(row.shape[0], n_rows, n_cols)
    return (
        row.new_empty(n_rows + 1, dtype=torch.int64),
        row.new_empty(nnz, dtype=out),
        value.new_empty(nnz),
        row.new_empty(n_cols + 1, dtype=torch.int64),
        row.new_empty(nnz, dtype=out),
        value.new_empty(nnz),
    )
