// Order-statistics rows as tensors, for the bindings that are made of them.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/gumbel_rows.h"

namespace mmssl::cuda {

// crow int64 [B + 1]; col (dtype of the graph's) and value (float32), `capacity` long, 0 from crow[B] on.
struct SparseRows {
  at::Tensor crow, col, value;
};

// Nothing waits for the device. Arguments as checked by check_gumbel.
SparseRows order_statistics_rows(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                                 int64_t n_items, double tau, const at::Tensor& seed_offset, double noise_scale,
                                 int64_t capacity);

}  // namespace mmssl::cuda
