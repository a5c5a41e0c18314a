// The columns that occur in a CSR block, and the block by column.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace mmssl {

// As the op csr_transpose, whose docstring in mmssl_fast/ops/csr_transpose.py describes it: cols, t_crow, t_row, order.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> csr_transpose(const char* op, const at::Tensor& crow,
                                                                         const at::Tensor& col, int64_t n_cols);

}  // namespace mmssl
