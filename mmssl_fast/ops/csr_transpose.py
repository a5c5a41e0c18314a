"""csr_transpose: a CSR block by column, over the columns that occur."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast


def csr_transpose(
    crow: torch.Tensor, col: torch.Tensor, n_cols: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Equals ``order = torch.sort(col, stable=True).indices; cols = torch.unique(col)`` and the offsets over `cols`.

    With it a gradient that scatters to columns becomes a row-wise sum, deterministic and without atomics:
    ``spmm_add_(out, cols, t_crow, t_row, value[order], x)`` adds ``value[e] x[row(e)]`` to ``out[col[e]]``, for all e.
    Takes O(nnz) time and memory however large n_cols is.

    Args:
        crow: int64 [R + 1], offsets from 0 to nnz.
        col: int32 or int64 [nnz], each in [0, n_cols), in any order within a row; repeats are kept.
        n_cols: number of columns of the block.

    Returns:
        cols: int64 [K], the columns that occur, ascending.
        t_crow: int64 [K + 1], offsets of each one's entries.
        t_row: dtype of col [nnz], the row of every entry, by column; within a column the entries keep their order.
        order: int64 [nnz], the entry each of them was: ``t_value = value[order]``.

    Raises:
        ValueError: for offsets that fall or do not span col, a column outside [0, n_cols), or wrong dtypes.
    """
    return torch.ops.mmssl_fast.csr_transpose(crow, col, n_cols)


@torch.library.register_fake("mmssl_fast::csr_transpose")
def _(crow, col, n_cols):
    nnz, distinct = col.shape[0], torch.library.get_ctx().new_dynamic_size()
    return crow.new_empty(distinct), crow.new_empty(distinct + 1), col.new_empty(nnz), crow.new_empty(nnz)
