// CSR blocks at the bindings: what they check before a kernel trusts an index, and the transpose that backward walks.
#pragma once

#include <ATen/core/Tensor.h>

namespace mmssl {

// Checks that crow [n_rows + 1] (int64) and col [nnz] (int32 or int64) describe an n_rows x n_cols block: offsets from
// 0 to nnz that never fall, columns in range. O(n_rows + nnz).
void check_csr(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_rows, int64_t n_cols);

// The same entries by column. Entry e of the transpose is entry order[e] of the block; within a column the entries keep
// their order, so that sums over a column are always formed the same way.
struct TransposedCsr {
  at::Tensor crow;   // int64 [n_cols + 1]
  at::Tensor col;    // int64 [nnz]: the row of each entry
  at::Tensor order;  // int64 [nnz]
};
TransposedCsr transpose_csr(const at::Tensor& crow, const at::Tensor& col, int64_t n_cols);

// Rows for one task of at::parallel_for when a row costs about work / n_rows operations.
int64_t row_grain(int64_t n_rows, int64_t work);

}  // namespace mmssl
