"""spmm and spmm_add_: a CSR block times a dense matrix. propagate and the corrections for seen items use them."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from .derivatives import is_tracked, is_transforming

_ops = torch.ops.mmssl_fast


def spmm(
    crow: torch.Tensor,
    col: torch.Tensor,
    value: torch.Tensor | None,
    x: torch.Tensor,
    *,
    row_scale: torch.Tensor | None = None,
    col_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Equals ``row_scale[:, None] * torch.sparse_csr_tensor(crow, col, value) @ (col_scale[:, None] * x)``.

    Not differentiable; `propagate` is the differentiable form. One thread adds the entries of a row in their order, so
    the result has the same bits for any number of threads.

    Args:
        crow: int64 [R + 1], offsets of the rows into `col`. It may be a slice of the offsets of a longer block.
        col: int32 or int64 [nnz], each in [0, C). Entries may repeat.
        value: floating [nnz], or None for ones.
        x: [C, d] float32, float64 or bfloat16 (sums in float32), with any strides.
        row_scale: floating [R], or None for ones.
        col_scale: floating [C], or None for ones.

    Returns:
        [R, d], dtype of x: ``y[r] = row_scale[r] Σ_e value[e] col_scale[col[e]] x[col[e]]`` over the entries e of row
        r, and 0 for an empty row.

    Raises:
        ValueError: shapes or dtypes do not match, the offsets decrease, or a column lies outside [0, C).
        RuntimeError: a gradient is requested.

    Example:
        >>> crow, col, value = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), torch.tensor([1.0, 2.0, 3.0])
        >>> matrix, x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]), torch.randn(3, 4)
        >>> torch.allclose(spmm(crow, col, value, x), matrix @ x)
        True
    """
    _refuse_gradient("spmm", value, x, row_scale, col_scale)
    return _ops.spmm(crow, col, value, row_scale, col_scale, x)


def spmm_add_(
    out: torch.Tensor,
    rows: torch.Tensor,
    crow: torch.Tensor,
    col: torch.Tensor,
    value: torch.Tensor | None,
    x: torch.Tensor,
) -> torch.Tensor:
    """Equals ``out.index_add_(0, rows, spmm(crow, col, value, x))``, without forming the product. Not differentiable.

    On the CPU, the sum of a row starts from the row of `out`, and its entries are added in their order. Adding the
    entries of a matrix in several blocks of consecutive columns to zeros therefore has the bits of `spmm`, except in
    bfloat16, to which every call rounds. On CUDA, the sum of the entries is added to `out`.

    Args:
        out: [N, d], dtype of x, with contiguous rows. Changed in place. It is unchanged if an argument is invalid.
        rows: int64 [R], the row of `out` to which each row of the block is added. The rows must be distinct. Sorted
            rows, which `csr_transpose` returns, are checked without a table. The entry of an empty row is not read.
        crow, col, value, x: as for `spmm`.

    Returns:
        `out`.

    Raises:
        ValueError: as for `spmm`, or a row lies outside [0, N) or occurs twice.
        RuntimeError: a gradient is requested.

    Example:
        >>> out, x = torch.zeros(4, 2), torch.ones(3, 2)
        >>> crow, col = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1])
        >>> spmm_add_(out, torch.tensor([1, 3]), crow, col, None, x)[:, 0]
        tensor([0., 2., 0., 1.])
    """
    _refuse_gradient("spmm_add_", out, value, x)
    _ops.spmm_add_(out, rows, crow, col, value, x)
    return out


def _refuse_gradient(op: str, *tensors: torch.Tensor | None) -> None:
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if tracked or (is_transforming() and any(t is not None and is_tracked(t) for t in tensors)):
        raise RuntimeError(f"{op} is not differentiable; use propagate, or call it under torch.no_grad()")


@torch.library.register_fake("mmssl_fast::spmm")
def _(
    crow: Tensor, col: Tensor, value: Tensor | None, row_scale: Tensor | None, col_scale: Tensor | None, x: Tensor
) -> Tensor:
    return x.new_empty(crow.shape[0] - 1, x.shape[1])


@torch.library.register_fake("mmssl_fast::spmm_add_")
def _(out: Tensor, rows: Tensor, crow: Tensor, col: Tensor, value: Tensor | None, x: Tensor) -> None:
    return None
