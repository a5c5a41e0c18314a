// The check of CSR blocks in the bindings, without which a kernel could read out of bounds.
#pragma once

#include <ATen/core/Tensor.h>

namespace mmssl {

// Checks that crow [n_rows + 1] (int64) and col [nnz] (int32 or int64) are an n_rows x n_cols block: the offsets are
// non-decreasing from 0 to nnz, and the columns are in range. O(n_rows + nnz).
void check_csr(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_rows, int64_t n_cols);

}  // namespace mmssl
