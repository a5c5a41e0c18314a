// gumbel_lse, gumbel_tile and gumbel_order_statistics on the CPU: log-sum-exp, tiles and sparse rows of equation 5.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "common/isa.h"
#include "cpu/gumbel_check.h"
#include "cpu/order_statistics.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/gumbel_rows.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

at::Tensor gumbel_lse_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users, int64_t n_items,
                          double tau, const at::Tensor& seed_offset, double noise_scale) {
  const char* op = "gumbel_lse";
  const GumbelNoise noise = gumbel_parameters(op, tau, noise_scale, seed_offset);
  check_seen(op, crow, col, users, n_items);
  const int64_t n_rows = users.numel();
  at::Tensor lse = at::empty({n_rows}, users.options().dtype(at::kDouble));
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    for_rows(0, n_rows, 8 * n_rows * n_items, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(gumbel_lse, noise, read_ptr<int64_t>(crow), read_ptr<Index>(col), read_ptr<int64_t>(users),
                     n_items, write_ptr<double>(lse), begin, end);
    });
  });
  return lse;
}

at::Tensor gumbel_tile_cpu(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                           const at::Tensor& lse, int64_t n_items, int64_t first, int64_t last, double tau,
                           const at::Tensor& seed_offset, double noise_scale) {
  const char* op = "gumbel_tile";
  const GumbelNoise noise = gumbel_parameters(op, tau, noise_scale, seed_offset);
  check_seen(op, crow, col, users, n_items);
  MMSSL_CHECK(0 <= first && first <= last && last <= n_items, op, "the columns [", first, ", ", last,
              ") must be within [0, ", n_items, ")");
  const int64_t n_rows = users.numel();
  MMSSL_CHECK(lse.scalar_type() == at::kDouble && lse.dim() == 1 && lse.numel() == n_rows && lse.is_contiguous(), op,
              "lse must be float64 [", n_rows, "], got ", lse.scalar_type(), " ", lse.sizes());
  at::Tensor tile = at::empty({n_rows, last - first}, users.options().dtype(at::kFloat));
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    for_rows(0, n_rows, 8 * n_rows * (last - first), [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(gumbel_tile, noise, read_ptr<int64_t>(crow), read_ptr<Index>(col), read_ptr<int64_t>(users),
                     read_ptr<double>(lse), first, last, write_ptr<float>(tile), begin, end);
    });
  });
  return tile;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gumbel_order_statistics_cpu(const at::Tensor& crow,
                                                                           const at::Tensor& col,
                                                                           const at::Tensor& users, int64_t n_items,
                                                                           double tau, const at::Tensor& seed_offset,
                                                                           double noise_scale, int64_t /*capacity*/) {
  const char* op = "gumbel_order_statistics";
  const GumbelNoise noise = gumbel_parameters(op, tau, noise_scale, seed_offset);
  check_seen(op, crow, col, users, n_items);
  check_order_statistics(op, tau, noise_scale);
  const int64_t n_rows = users.numel();
  const int64_t* seen_crow = read_ptr<int64_t>(crow);
  const int64_t* user = read_ptr<int64_t>(users);
  std::vector<std::vector<RowEntry>> rows(n_rows);
  at::Tensor out_crow = at::empty({n_rows + 1}, users.options());
  int64_t* row_end = write_ptr<int64_t>(out_crow) + 1;
  row_end[-1] = 0;
  at::Tensor out_col, value;
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const Index* seen = read_ptr<Index>(col);
    with_row_queue(0, n_rows, n_rows * kOrderStatisticsWork, [&](ChunkQueue& queue) {
      OrderStatistics order(noise, n_items);
      for (int64_t begin, end; queue.take(begin, end);) {
        for (int64_t r = begin; r < end; ++r) {
          const int64_t first = seen_crow[user[r]];
          rows[r] = order.row(user[r], seen + first, seen_crow[user[r] + 1] - first);
        }
      }
    });
    for (int64_t r = 0; r < n_rows; ++r) row_end[r] = row_end[r - 1] + static_cast<int64_t>(rows[r].size());
    out_col = at::empty({row_end[n_rows - 1]}, col.options());
    value = at::empty({row_end[n_rows - 1]}, users.options().dtype(at::kFloat));
    Index* item_ptr = write_ptr<Index>(out_col);
    float* value_ptr = write_ptr<float>(value);
    for_rows(0, n_rows, row_end[n_rows - 1], [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        int64_t e = row_end[r - 1];
        for (const RowEntry& entry : rows[r]) {
          item_ptr[e] = static_cast<Index>(entry.item);
          value_ptr[e++] = static_cast<float>(entry.value);
        }
      }
    });
  });
  return {out_crow, out_col, value};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("gumbel_lse", &mmssl::gumbel_lse_cpu);
  m.impl("gumbel_order_statistics", &mmssl::gumbel_order_statistics_cpu);
  m.impl("gumbel_tile", &mmssl::gumbel_tile_cpu);
}
