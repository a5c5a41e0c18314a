// The checks of the arrays of a graph on every device. The values in the arrays are checked by the binding on the CPU,
// and by the kernel on CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"

namespace mmssl {

inline void check_graph_arrays(const char* op, const at::Tensor& crow, const at::Tensor& col) {
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.numel() > 0 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [U + 1], got ", crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
}

}  // namespace mmssl
