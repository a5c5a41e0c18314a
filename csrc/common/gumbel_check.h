// The checks of the Gumbel ops on every device. The values in `users` and in the graph are checked by the binding on
// the CPU, and by the kernel on CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>

#include "common/check.h"
#include "common/graph_check.h"

namespace mmssl {

inline void check_gumbel_noise(const char* op, double tau, double noise_scale) {
  MMSSL_CHECK(tau > 0 && std::isfinite(tau), op, "tau must be positive, got ", tau);
  MMSSL_CHECK(tau > 1e-30, op, "tau must be at least 1e-30 (float32 noise is divided by it), got ", tau);
  MMSSL_CHECK(noise_scale >= 0 && std::isfinite(noise_scale), op, "noise_scale must not be negative, got ",
              noise_scale);
}

// crow [U + 1] and col [nnz] are the graph, and users, int64 [B], are rows of it.
inline void check_gumbel_rows(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                              int64_t n_items) {
  MMSSL_CHECK(users.scalar_type() == at::kLong && users.dim() == 1 && users.is_contiguous(), op,
              "users must be contiguous int64 [B], got ", users.scalar_type(), " ", users.sizes());
  check_graph_arrays(op, crow, col);
  MMSSL_CHECK(crow.device() == users.device() && col.device() == users.device(), op,
              "users must be on the device of the graph, ", crow.device(), ", got ", users.device());
  MMSSL_CHECK(n_items >= 0 && n_items < (int64_t{1} << 31), op, "n_items must be in [0, 2^31), got ", n_items);
}

inline void check_order_statistics(const char* op, double tau, double noise_scale) {
  MMSSL_CHECK(noise_scale > tau, op, "order statistics need tau / noise_scale < 1 (use method=\"dense\"), got ", tau,
              " / ", noise_scale);
}

}  // namespace mmssl
