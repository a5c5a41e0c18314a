"""csr_transpose: the transpose of a CSR block, restricted to the columns that occur."""

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..static_shapes import is_static


def csr_transpose(crow: Tensor, col: Tensor, n_cols: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equals ``order = torch.sort(col, stable=True).indices; cols = torch.unique(col)`` and the offsets over `cols`.

    It turns a gradient that scatters to columns into a sum over rows, which is deterministic and needs no atomics:
    ``spmm_add_(out, cols, t_crow, t_row, value[order], x)`` adds ``value[e] x[row(e)]`` to ``out[col[e]]`` for every
    entry e. On the CPU it takes O(nnz) time and memory, independent of n_cols.

    On CUDA the result is padded, because reading the number of occurring columns would make the host wait for the GPU.
    There K is min(nnz, n_cols). The places of `cols` behind the last column that occurs hold n_cols − 1, so that `cols`
    stays sorted, and have no entries in `t_crow`; spmm_add_ does not read them. The input may be padded, too: entries
    from crow[-1] on belong to no column, come last and have t_row 0.

    Args:
        crow: int64 [R + 1], offsets from 0 to nnz (on CUDA to at most nnz).
        col: int32 or int64 [nnz], each in [0, n_cols), in any order within a row. Repeated entries are kept.
        n_cols: number of columns of the block.

    Returns:
        cols: int64 [K], the columns that occur, ascending.
        t_crow: int64 [K + 1], offsets of the entries of each of these columns.
        t_row: [nnz] in the dtype of col, the row of every entry, sorted by column. The sort is stable.
        order: int64 [nnz], the position each of these entries had in col: ``t_value = value[order]``.

    Raises:
        ValueError: dtypes are wrong, or, on the CPU only, the offsets decrease or do not span col, or a column lies
            outside [0, n_cols).
    """
    if is_static(col.device):
        return transpose_padded(crow, col, n_cols)
    return torch.ops.mmssl_fast.csr_transpose(crow, col, n_cols)


def transpose_padded(crow: Tensor, col: Tensor, n_cols: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The padded form of `csr_transpose` that CUDA uses, composed of PyTorch operations, on any device."""
    _check(crow, col, n_cols)
    nnz = col.shape[0]
    place = torch.arange(nnz, device=col.device)
    used = crow[-1]
    real = place < used
    # Padding gets column n_cols, which sorts after all others and may not fit the dtype of col.
    wide = col if n_cols <= torch.iinfo(col.dtype).max else col.long()
    by_col, order = torch.sort(torch.where(real, wide, n_cols), stable=True)
    t_row = torch.where(real, torch.searchsorted(crow, order, right=True) - 1, 0).to(col.dtype)

    begins = torch.cat((real[:1], (by_col[1:] != by_col[:-1]) & real[1:]))
    number = begins.cumsum(0)  # number of distinct columns up to each entry
    length = torch.sym_min(nnz, n_cols)
    t_crow = torch.searchsorted(number, torch.arange(1, length + 2, device=col.device)).minimum(used)
    starts = t_crow[:-1]
    # Behind the last column `starts` equals `used`, which may lie outside by_col: read place 0 instead and discard it.
    occurs = starts < used
    cols = torch.where(occurs, by_col[torch.where(occurs, starts, 0)].long(), n_cols - 1)
    return cols, t_crow, t_row, order


def _check(crow: Tensor, col: Tensor, n_cols: int) -> None:
    if crow.ndim != 1 or crow.shape[0] == 0 or crow.dtype != torch.int64:
        raise ValueError(f"csr_transpose: crow must be int64 [rows + 1], got {crow.dtype} {list(crow.shape)}")
    if col.ndim != 1 or col.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"csr_transpose: col must be int32 or int64 [nnz], got {col.dtype} {list(col.shape)}")
    if n_cols < 0:
        raise ValueError(f"csr_transpose: n_cols must not be negative, got {n_cols}")
    if crow.shape[0] - 1 > torch.iinfo(col.dtype).max:
        raise ValueError(f"csr_transpose: {crow.shape[0] - 1} rows do not fit the index dtype {col.dtype}")


torch.library.impl("mmssl_fast::csr_transpose", "cuda", transpose_padded)


@torch.library.register_fake("mmssl_fast::csr_transpose")
def _(crow: Tensor, col: Tensor, n_cols: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    nnz = col.shape[0]
    if col.device.type == "cuda":
        distinct = torch.sym_min(nnz, n_cols)
    else:
        distinct = torch.library.get_ctx().new_dynamic_size()
    return crow.new_empty(distinct), crow.new_empty(distinct + 1), col.new_empty(nnz), crow.new_empty(nnz)
