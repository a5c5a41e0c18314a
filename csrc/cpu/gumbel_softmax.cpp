// gumbel_softmax on the CPU: the rows of equation 5 as a B x I matrix.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "cpu/gumbel_check.h"
#include "cpu/large_pages.h"
#include "cpu/order_statistics.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/gumbel_rows.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

// The product of the augmentation is computed for this many entries at a time, so that they are in cache for the next
// pass.
constexpr int64_t kTileEntries = int64_t{1} << 18;

template <typename T, typename Index>
void dense_rows(const GumbelNoise& noise, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                bool accumulate, bool l2, const at::Tensor& rows, const at::Tensor& inv_norm, int64_t first,
                int64_t last) {
  const int64_t n_items = rows.size(1);
  with_row_queue(first, last, 8 * (last - first) * n_items, [&](ChunkQueue& queue) {
    std::vector<T> scratch(accumulate ? n_items : 0);
    for (int64_t begin, end; queue.take(begin, end);) {
      MMSSL_DISPATCH(gumbel_softmax, noise, read_ptr<int64_t>(crow), read_ptr<Index>(col), read_ptr<int64_t>(users),
                     n_items, accumulate, l2, write_ptr<T>(rows), write_ptr<T>(inv_norm), scratch.data(), begin, end);
    }
  });
}

template <typename T, typename Index>
void sparse_rows(const GumbelNoise& noise, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                 bool l2, const at::Tensor& rows, const at::Tensor& inv_norm, int64_t first, int64_t last) {
  const int64_t n_items = rows.size(1);
  const int64_t* offset = read_ptr<int64_t>(crow);
  with_row_queue(first, last, (last - first) * (kOrderStatisticsWork + (l2 ? n_items : 0)), [&](ChunkQueue& queue) {
    OrderStatistics order(noise, n_items);
    for (int64_t begin, end; queue.take(begin, end);) {
      for (int64_t r = begin; r < end; ++r) {
        T* row = write_ptr<T>(rows) + r * n_items;
        const int64_t user = read_ptr<int64_t>(users)[r];
        const Index* seen = read_ptr<Index>(col) + offset[user];
        for (const RowEntry& entry : order.row(user, seen, offset[user + 1] - offset[user])) {
          row[entry.item] += static_cast<T>(static_cast<float>(entry.value));
        }
      }
      if (l2) MMSSL_DISPATCH(row_l2, n_items, write_ptr<T>(rows), write_ptr<T>(inv_norm), begin, end);
    }
  });
}

std::tuple<at::Tensor, at::Tensor> gumbel_softmax_cpu(
    const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users, const std::optional<at::Tensor>& user_unit,
    const std::optional<at::Tensor>& item_unit, int64_t n_items, double tau, const at::Tensor& seed_offset,
    double noise_scale, double zeta, bool row_l2, bool order_statistics, int64_t /*capacity*/) {
  const char* op = "gumbel_softmax";
  const GumbelNoise noise = gumbel_parameters(op, tau, noise_scale, seed_offset);
  check_seen(op, crow, col, users, n_items);
  if (order_statistics) check_order_statistics(op, tau, noise_scale);
  const int64_t n_rows = users.numel();
  const bool augmented = user_unit.has_value();
  MMSSL_CHECK(augmented == item_unit.has_value(), op, "augment needs both h_u and h_i");
  at::ScalarType dtype = at::kFloat;
  at::Tensor scaled, items;
  if (augmented) {
    dtype = user_unit->scalar_type();
    MMSSL_CHECK((dtype == at::kFloat || dtype == at::kDouble) && item_unit->scalar_type() == dtype, op,
                "h_u and h_i must both be float32 or both float64, got ", dtype, " and ", item_unit->scalar_type());
    MMSSL_CHECK(user_unit->dim() == 2 && user_unit->size(0) == n_rows, op, "h_u must be [", n_rows, ", d], got ",
                user_unit->sizes());
    MMSSL_CHECK(item_unit->dim() == 2 && item_unit->size(0) == n_items && item_unit->size(1) == user_unit->size(1), op,
                "h_i must be [", n_items, ", ", user_unit->size(1), "], got ", item_unit->sizes());
    scaled = at::mul(*user_unit, zeta);
    items = item_unit->t();
  }
  const auto options = users.options().dtype(dtype);
  at::Tensor rows =
      order_statistics && !augmented ? at::zeros({n_rows, n_items}, options) : at::empty({n_rows, n_items}, options);
  if (!order_statistics || augmented)
    wish_large_pages(rows);  // the sparse rows were already written, when they were set to zero
  at::Tensor inv_norm = at::ones({n_rows}, options);
  const int64_t step = augmented ? std::max<int64_t>(kTileEntries / std::max<int64_t>(n_items, 1), 16) : n_rows;
  for (int64_t first = 0; first < n_rows; first += step) {
    const int64_t last = std::min(first + step, n_rows);
    if (augmented) {
      at::Tensor tile = rows.narrow(0, first, last - first);
      at::mm_out(tile, scaled.narrow(0, first, last - first), items);
    }
    with_index_type(op, col.scalar_type(), [&](auto index) {
      using Index = decltype(index);
      const auto run = [&](auto value) {
        using T = decltype(value);
        if (order_statistics) {
          sparse_rows<T, Index>(noise, crow, col, users, row_l2, rows, inv_norm, first, last);
        } else {
          dense_rows<T, Index>(noise, crow, col, users, augmented, row_l2, rows, inv_norm, first, last);
        }
      };
      dtype == at::kDouble ? run(double{}) : run(float{});
    });
  }
  return {rows, inv_norm};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) { m.impl("gumbel_softmax", &mmssl::gumbel_softmax_cpu); }
