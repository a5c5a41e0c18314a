// gumbel_lse and gumbel_tile on CUDA.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/gumbel_check.h"
#include "cuda/gumbel_rows.h"
#include "cuda/library.h"

namespace mmssl::cuda {
namespace {

at::Tensor gumbel_lse_cuda(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users, int64_t n_items,
                           double tau, const at::Tensor& seed_offset, double noise_scale) {
  const char* op = "gumbel_lse";
  check_gumbel(op, crow, col, users, n_items, tau, seed_offset, noise_scale);
  const OnDevice device(users);
  const auto options = users.options().dtype(at::kDouble);
  const at::Tensor lse = at::empty({users.numel()}, options);
  const at::Tensor partial = at::empty({users.numel(), lse_splits(n_items), 2}, options);
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    launch_gumbel_lse<float>(gumbel_batch<Index>(crow, col, users, n_items, tau, seed_offset, noise_scale),
                             write_ptr<double>(partial), write_ptr<double>(lse), device.stream());
  });
  return lse;
}

at::Tensor gumbel_tile_cuda(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& users,
                            const at::Tensor& lse, int64_t n_items, int64_t first, int64_t last, double tau,
                            const at::Tensor& seed_offset, double noise_scale) {
  const char* op = "gumbel_tile";
  check_gumbel(op, crow, col, users, n_items, tau, seed_offset, noise_scale);
  MMSSL_CHECK(0 <= first && first <= last && last <= n_items, op, "the columns [", first, ", ", last,
              ") must be within [0, ", n_items, ")");
  const int64_t n_rows = users.numel();
  MMSSL_CHECK(lse.scalar_type() == at::kDouble && lse.dim() == 1 && lse.numel() == n_rows && lse.is_contiguous(), op,
              "lse must be float64 [", n_rows, "], got ", lse.scalar_type(), " ", lse.sizes());
  const OnDevice device(users);
  const at::Tensor tile = at::empty({n_rows, last - first}, users.options().dtype(at::kFloat));
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    launch_gumbel_tile(gumbel_batch<Index>(crow, col, users, n_items, tau, seed_offset, noise_scale),
                       read_ptr<double>(lse), first, last, false, write_ptr<float>(tile), device.stream());
  });
  return tile;
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("gumbel_lse", &mmssl::cuda::gumbel_lse_cuda);
  m.impl("gumbel_tile", &mmssl::cuda::gumbel_tile_cuda);
}
