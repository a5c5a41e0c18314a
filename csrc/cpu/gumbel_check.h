// The checks of the Gumbel ops on the CPU: in addition to common/gumbel_check.h, the values in the arrays.
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

// crow [U + 1] and col [nnz] are the graph, and users, int64 [B], are rows of it. Only these rows are checked: their
// offsets must be within nnz, and their items in range and ascending.
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
      MMSSL_CHECK(0 <= u && u < n_users, op, "users[", r, "] = ", u, " is outside [0, ", n_users, ")");
      MMSSL_CHECK(0 <= offset[u] && offset[u] <= offset[u + 1] && offset[u + 1] <= col.numel(), op,
                  "the items of user ", u, " have the offsets [", offset[u], ", ", offset[u + 1], "), but there are ",
                  col.numel(), " entries");
      for (int64_t e = offset[u]; e < offset[u + 1]; ++e) {
        MMSSL_CHECK(0 <= item[e] && item[e] < n_items, op, "user ", u, " has item ", item[e], ", but there are ",
                    n_items, " items");
        MMSSL_CHECK(e == offset[u] || item[e - 1] < item[e], op, "the items of user ", u, " must be ascending, but ",
                    item[e], " comes after ", item[e - 1]);
      }
    }
  });
}

}  // namespace mmssl
