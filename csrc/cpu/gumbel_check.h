// What every Gumbel op checks of its arguments on the CPU, besides common/gumbel_check.h: what the arrays hold.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/gumbel.h"
#include "common/gumbel_check.h"
#include "cpu/seed_offset.h"

namespace mmssl {

inline GumbelNoise gumbel_parameters(const char* op, double tau, double noise_scale, const at::Tensor& seed_offset) {
  check_gumbel_noise(op, tau, noise_scale);
  const SeedOffset at = read_seed_offset(op, seed_offset);
  return {tau, noise_scale, at.seed, at.offset};
}

// crow [U + 1], col [nnz]: the graph; users: int64 [B], rows of it. Of the graph only the users' rows are checked:
// offsets within nnz, items in range and ascending.
inline void check_seen(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                       int64_t n_items) {
  check_gumbel_rows(op, crow, col, users, n_items);
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

}  // namespace mmssl
