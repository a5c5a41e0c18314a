// Order-statistics rows as tensors, for the bindings that use them.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/gumbel_rows.h"

namespace mmssl::cuda {

// crow int64 [B + 1], col [capacity] in the dtype of the graph, and value float32 [capacity]. col and value are 0 from
// crow[B] on.
struct SparseRows {
  at::Tensor crow, col, value;
};

// Does not synchronize. The arguments must have been checked by check_gumbel.
SparseRows order_statistics_rows(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                                 int64_t n_items, double tau, const at::Tensor& seed_offset, double noise_scale,
                                 int64_t capacity);

}  // namespace mmssl::cuda
