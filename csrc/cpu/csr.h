// CSR blocks at the bindings: what they check before a kernel trusts an index.
#pragma once

#include <ATen/core/Tensor.h>

namespace mmssl {

// Checks that crow [n_rows + 1] (int64) and col [nnz] (int32 or int64) describe an n_rows x n_cols block: offsets from
// 0 to nnz that never fall, columns in range. O(n_rows + nnz).
void check_csr(const char* op, const at::Tensor& crow, const at::Tensor& col, int64_t n_rows, int64_t n_cols);

}  // namespace mmssl
