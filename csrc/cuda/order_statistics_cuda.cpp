// gumbel_order_statistics on CUDA.
#include "cuda/order_statistics_cuda.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/gumbel_check.h"
#include "cuda/library.h"
#include "cuda/order_statistics.h"

namespace mmssl::cuda {

SparseRows order_statistics_rows(const char* op, const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                                 int64_t n_items, double tau, const at::Tensor& seed_offset, double noise_scale,
                                 int64_t capacity) {
  check_order_statistics(op, tau, noise_scale);
  MMSSL_CHECK(capacity >= 0, op, "capacity must not be negative, got ", capacity);
  const OnDevice device(users);
  const int64_t n_rows = users.numel();
  SparseRows rows{at::zeros({n_rows + 1}, users.options()), at::zeros({capacity}, col.options()),
                  at::zeros({capacity}, users.options().dtype(at::kFloat))};
  const at::Tensor count = at::empty({n_rows}, users.options());
  const at::Tensor slots = at::empty({2 * capacity}, users.options());
  const at::Tensor weight = at::empty({capacity}, users.options().dtype(at::kDouble));
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const auto batch = gumbel_batch<Index>(crow, col, users, n_items, tau, seed_offset, noise_scale);
    launch_order_statistics_count(batch, write_ptr<int64_t>(count), device.stream());
    at::Tensor row_end = rows.crow.narrow(0, 1, n_rows);
    at::cumsum_out(row_end, count, 0);
    launch_order_statistics_draw(batch, read_ptr<int64_t>(rows.crow), capacity, write_ptr<unsigned long long>(slots),
                                 write_ptr<double>(weight), write_ptr<Index>(rows.col), write_ptr<float>(rows.value),
                                 device.stream());
  });
  return rows;
}

namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor> gumbel_order_statistics_cuda(const at::Tensor& crow,
                                                                            const at::Tensor& col,
                                                                            const at::Tensor& users, int64_t n_items,
                                                                            double tau, const at::Tensor& seed_offset,
                                                                            double noise_scale, int64_t capacity) {
  const char* op = "gumbel_order_statistics";
  check_gumbel(op, crow, col, users, n_items, tau, seed_offset, noise_scale);
  SparseRows rows = order_statistics_rows(op, crow, col, users, n_items, tau, seed_offset, noise_scale, capacity);
  return {rows.crow, rows.col, rows.value};
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) { m.impl("gumbel_order_statistics", &mmssl::cuda::gumbel_order_statistics_cuda); }
