// The checks of the Gumbel bindings on the host: shapes, dtypes and parameters. Users and items are checked on the
// device.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/dispatch.h"
#include "common/gumbel_check.h"
#include "cuda/gumbel_rows.h"
#include "cuda/seed_offset.h"

namespace mmssl::cuda {

// Checks the common arguments of the Gumbel ops. gumbel_batch does not check them again.
inline void check_gumbel(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                         int64_t n_items, double tau, const at::Tensor& seed_offset, double noise_scale) {
  check_gumbel_noise(op, tau, noise_scale);
  check_seed_offset(op, seed_offset, users);
  check_gumbel_rows(op, crow, col, users, n_items);
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
