// What the bindings of the Gumbel kernels check on the host, once: shapes, dtypes, parameters. Users and items are
// checked on the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/gumbel_rows.h"
#include "cuda/seed_offset.h"

namespace mmssl::cuda {

// Checks the arguments every Gumbel op has; gumbel_batch then only reads pointers.
inline void check_gumbel(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                         int64_t n_items, double tau, const at::Tensor& seed_offset, double noise_scale) {
  MMSSL_CHECK(tau > 0 && std::isfinite(tau), op, "tau must be positive, got ", tau);
  MMSSL_CHECK(tau > 1e-30, op, "tau must be at least 1e-30 (float32 noise is divided by it), got ", tau);
  MMSSL_CHECK(noise_scale >= 0 && std::isfinite(noise_scale), op, "noise_scale must not be negative, got ",
              noise_scale);
  check_seed_offset(op, seed_offset, users);
  MMSSL_CHECK(users.scalar_type() == at::kLong && users.dim() == 1 && users.is_contiguous(), op,
              "users must be contiguous int64 [B], got ", users.scalar_type(), " ", users.sizes());
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.numel() > 0 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [U + 1], got ", crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
  MMSSL_CHECK(crow.device() == users.device() && col.device() == users.device(), op, "the graph is on ", crow.device(),
              ", users on ", users.device());
  MMSSL_CHECK(n_items >= 0 && n_items < (int64_t{1} << 31), op, "n_items must be in [0, 2^31), got ", n_items);
}

inline void check_order_statistics(const char* op, double tau, double noise_scale) {
  MMSSL_CHECK(noise_scale > tau, op, "order statistics need tau / noise_scale < 1 (use method=\"dense\"), got ", tau,
              " / ", noise_scale);
}

template <typename Index>
GumbelBatch<Index> gumbel_batch(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users, int64_t n_items,
                                double tau, const at::Tensor& seed_offset, double noise_scale) {
  return {read_ptr<int64_t>(crow),
          read_ptr<Index>(col),
          read_ptr<int64_t>(users),
          read_ptr<int64_t>(seed_offset),
          crow.numel() - 1,
          col.numel(),
          users.numel(),
          n_items,
          tau,
          noise_scale};
}

}  // namespace mmssl::cuda
