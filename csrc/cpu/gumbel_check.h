// What every Gumbel op checks of its arguments, once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/gumbel.h"
#include "cpu/seed_offset.h"

namespace mmssl {

inline GumbelNoise gumbel_parameters(const char* op, double tau, double noise_scale, const at::Tensor& seed_offset) {
  MMSSL_CHECK(tau > 0 && std::isfinite(tau), op, "tau must be positive, got ", tau);
  MMSSL_CHECK(tau > 1e-30, op, "tau must be at least 1e-30 (float32 noise is divided by it), got ", tau);
  MMSSL_CHECK(noise_scale >= 0 && std::isfinite(noise_scale), op, "noise_scale must not be negative, got ",
              noise_scale);
  const SeedOffset at = read_seed_offset(op, seed_offset);
  return {tau, noise_scale, at.seed, at.offset};
}

// crow [U + 1], col [nnz]: the graph; users: int64 [B], rows of it. Of the graph only the users' rows are checked:
// offsets within nnz, items in range and ascending.
inline void check_seen(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                       int64_t n_items) {
  MMSSL_CHECK(users.scalar_type() == at::kLong && users.dim() == 1 && users.is_contiguous(), op,
              "users must be contiguous int64 [B], got ", users.scalar_type(), " ", users.sizes());
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.numel() > 0 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [U + 1], got ", crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
  MMSSL_CHECK(n_items >= 0 && n_items < (int64_t{1} << 31), op, "n_items must be in [0, 2^31), got ", n_items);
  const int64_t n_users = crow.numel() - 1;
  const int64_t* offset = crow.const_data_ptr<int64_t>();
  const int64_t* user = users.const_data_ptr<int64_t>();
  with_index_type(op, col.scalar_type(), [&](auto index) {
    const auto* item = read_ptr<decltype(index)>(col);
    for (int64_t r = 0; r < users.numel(); ++r) {
      const int64_t u = user[r];
      MMSSL_CHECK(0 <= u && u < n_users, op, "users[", r, "] = ", u, " is outside the ", n_users, " users");
      MMSSL_CHECK(0 <= offset[u] && offset[u] <= offset[u + 1] && offset[u + 1] <= col.numel(), op, "user ", u,
                  "'s items are [", offset[u], ", ", offset[u + 1], ") of ", col.numel());
      for (int64_t e = offset[u]; e < offset[u + 1]; ++e) {
        MMSSL_CHECK(0 <= item[e] && item[e] < n_items, op, "user ", u, " has item ", item[e], ", outside the ", n_items,
                    " items");
        MMSSL_CHECK(e == offset[u] || item[e - 1] < item[e], op, "user ", u, "'s items do not ascend: ", item[e],
                    " comes after ", item[e - 1]);
      }
    }
  });
}

inline void check_order_statistics(const char* op, const GumbelNoise& noise) {
  MMSSL_CHECK(noise.noise_scale > noise.tau, op,
              "order statistics need tau / noise_scale < 1 (use method=\"dense\"), got ", noise.tau, " / ",
              noise.noise_scale);
}

}  // namespace mmssl
