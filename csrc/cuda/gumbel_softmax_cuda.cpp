// gumbel_softmax on CUDA: selects the kernels by the length of the rows.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/gumbel_check.h"
#include "cuda/gumbel_rows.h"
#include "cuda/gumbel_softmax.h"
#include "cuda/library.h"
#include "cuda/order_statistics_cuda.h"

namespace mmssl::cuda {
namespace {

void check_augment(const char* op, const at::Tensor& user_unit, const at::Tensor& item_unit, int64_t n_rows,
                   int64_t n_items) {
  const auto dtype = user_unit.scalar_type();
  MMSSL_CHECK((dtype == at::kFloat || dtype == at::kDouble) && item_unit.scalar_type() == dtype, op,
              "h_u and h_i must both be float32 or both float64, got ", dtype, " and ", item_unit.scalar_type());
  MMSSL_CHECK(user_unit.dim() == 2 && user_unit.size(0) == n_rows, op, "h_u must be [", n_rows, ", d], got ",
              user_unit.sizes());
  MMSSL_CHECK(item_unit.dim() == 2 && item_unit.size(0) == n_items && item_unit.size(1) == user_unit.size(1), op,
              "h_i must be [", n_items, ", ", user_unit.size(1), "], got ", item_unit.sizes());
}

// Computes the rows in shared memory if they fit, else in two passes that both generate the noise.
template <typename T, typename Index>
void dense_rows(const GumbelBatch<Index>& batch, bool accumulate, bool l2, const at::Tensor& rows,
                const at::Tensor& inv_norm, cudaStream_t stream) {
  const int64_t n_items = batch.n_items;
  if (n_items * static_cast<int64_t>(sizeof(T)) <= kSharedRowBytes) {
    launch_gumbel_softmax(batch, accumulate, l2, write_ptr<T>(rows), write_ptr<T>(inv_norm), stream);
    return;
  }
  const auto options = rows.options().dtype(at::kDouble);
  const at::Tensor lse = at::empty({batch.n_rows}, options);
  const at::Tensor partial = at::empty({batch.n_rows, lse_splits(n_items), 2}, options);
  launch_gumbel_lse<T>(batch, write_ptr<double>(partial), write_ptr<double>(lse), stream);
  launch_gumbel_tile(batch, read_ptr<double>(lse), 0, n_items, accumulate, write_ptr<T>(rows), stream);
  if (l2) launch_row_l2(batch.n_rows, n_items, write_ptr<T>(rows), write_ptr<T>(inv_norm), stream);
}

template <typename T, typename Index>
void sparse_rows(const SparseRows& sparse, bool accumulate, bool l2, const at::Tensor& rows, const at::Tensor& inv_norm,
                 cudaStream_t stream) {
  const int64_t n_rows = rows.size(0), n_items = rows.size(1);
  launch_scatter_rows(n_rows, n_items, read_ptr<int64_t>(sparse.crow), read_ptr<Index>(sparse.col),
                      read_ptr<float>(sparse.value), write_ptr<T>(rows),
                      l2 && !accumulate ? write_ptr<T>(inv_norm) : nullptr, stream);
  if (l2 && accumulate) launch_row_l2(n_rows, n_items, write_ptr<T>(rows), write_ptr<T>(inv_norm), stream);
}

std::tuple<at::Tensor, at::Tensor> gumbel_softmax_cuda(
    const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users, const std::optional<at::Tensor>& user_unit,
    const std::optional<at::Tensor>& item_unit, int64_t n_items, double tau, const at::Tensor& seed_offset,
    double noise_scale, double zeta, bool row_l2, bool order_statistics, int64_t capacity) {
  const char* op = "gumbel_softmax";
  check_gumbel(op, crow, col, users, n_items, tau, seed_offset, noise_scale);
  const int64_t n_rows = users.numel();
  const bool augmented = user_unit.has_value();
  MMSSL_CHECK(augmented == item_unit.has_value(), op, "augment needs both h_u and h_i");
  if (augmented) check_augment(op, *user_unit, *item_unit, n_rows, n_items);
  const OnDevice device(users);
  const auto options = users.options().dtype(augmented ? user_unit->scalar_type() : at::kFloat);
  const at::Tensor inv_norm = at::ones({n_rows}, options);
  at::Tensor rows;
  if (augmented) {
    rows = at::mm(at::mul(*user_unit, zeta), item_unit->t());
  } else {
    rows = order_statistics ? at::zeros({n_rows, n_items}, options) : at::empty({n_rows, n_items}, options);
  }
  SparseRows sparse;
  if (order_statistics) {
    sparse = order_statistics_rows(op, crow, col, users, n_items, tau, seed_offset, noise_scale, capacity);
  }
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const auto batch = gumbel_batch<Index>(crow, col, users, n_items, tau, seed_offset, noise_scale);
    const auto run = [&](auto value) {
      using T = decltype(value);
      if (order_statistics) {
        sparse_rows<T, Index>(sparse, augmented, row_l2, rows, inv_norm, device.stream());
      } else {
        dense_rows<T>(batch, augmented, row_l2, rows, inv_norm, device.stream());
      }
    };
    rows.scalar_type() == at::kDouble ? run(double{}) : run(float{});
  });
  return {rows, inv_norm};
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) { m.impl("gumbel_softmax", &mmssl::cuda::gumbel_softmax_cuda); }
