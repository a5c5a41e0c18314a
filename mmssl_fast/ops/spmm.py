"""spmm and spmm_add_: a CSR block times a dense matrix, which propagate and the sparse corrections are made of."""

import torch

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

    Not differentiable: `propagate` is. A row's entries are added in their order by one thread, so the result has the
    same bits for any number of threads.

    Args:
        crow: int64 [R + 1], offsets of the rows into `col` (a slice of a longer block's offsets will do).
        col: int32 or int64 [nnz], each in [0, C); repeats count every time.
        value: [nnz] floating, or None: every entry counts 1.
        x: [C, d] float32, float64 or bfloat16 (sums are formed in float32), columns contiguous or not.
        row_scale: [R] floating, or None: 1. col_scale: [C] floating, or None: 1.

    Returns:
        [R, d], dtype of x: ``y[r] = row_scale[r] Σ_e value[e] col_scale[col[e]] x[col[e]]``; 0 for an empty row.

    Raises:
        ValueError: for shapes or dtypes that do not match, offsets that fall, or a column outside [0, C).
        RuntimeError: when a gradient is asked for.
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

    Args:
        out: [N, d], dtype of x; columns adjacent. Changed in place, untouched when an argument is refused.
        rows: int64 [R], the row of `out` that each row of the block is added to: distinct, in any order (ascending,
            as `csr_transpose` gives them, is checked without a table). Where the block's row is empty it is not read.
        crow, col, value, x: as for `spmm`.

    Returns:
        `out`.

    Raises:
        ValueError: as `spmm`, and for a row outside [0, N) or one that occurs twice.
        RuntimeError: when a gradient is asked for.
    """
    _refuse_gradient("spmm_add_", out, value, x)
    _ops.spmm_add_(out, rows, crow, col, value, x)
    return out


def _refuse_gradient(op: str, *tensors: torch.Tensor | None) -> None:
    tracked = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if tracked or (is_transforming() and any(t is not None and is_tracked(t) for t in tensors)):
        raise RuntimeError(f"{op}: has no gradient; use propagate, or call it under torch.no_grad()")


@torch.library.register_fake("mmssl_fast::spmm")
def _(crow, col, value, row_scale, col_scale, x):
    return x.new_empty(crow.shape[0] - 1, x.shape[1])


@torch.library.register_fake("mmssl_fast::spmm_add_")
def _(out, rows, crow, col, value, x):
    return None
