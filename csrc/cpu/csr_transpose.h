// The transpose of a CSR block, restricted to the columns that occur.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace mmssl {

// Returns cols, t_crow, t_row and order as the op csr_transpose, which mmssl_fast/ops/csr_transpose.py documents.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> csr_transpose(const char* op, const at::Tensor& crow,
                                                                         const at::Tensor& col, int64_t n_cols);

}  // namespace mmssl
