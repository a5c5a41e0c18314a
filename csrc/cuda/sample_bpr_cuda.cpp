// sample_bpr and sample_bpr_users on CUDA. Everything that the host knows without waiting is checked here. The kernels
// check the rest, and stop with an assertion.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <torch/library.h>

#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/sample_bpr_check.h"
#include "cuda/library.h"
#include "cuda/sample_bpr.h"
#include "cuda/seed_offset.h"

namespace mmssl::cuda {
namespace {

using Sample = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

constexpr const char* kOp =
    "sample_bpr";  // the name in errors of both ops, because over="users" is an argument of sample_bpr

void check_graph(const at::Tensor& crow, const at::Tensor& col, int64_t n_items, int64_t batch,
                 const at::Tensor& seed_offset) {
  check_sampled_graph(kOp, crow, col, n_items, batch);
  check_seed_offset(kOp, seed_offset, crow);
}

template <typename Index>
SampledGraph<Index> sampled_graph(const at::Tensor& crow, const at::Tensor& col, int64_t n_items,
                                  const at::Tensor& seed_offset) {
  return {read_ptr<int64_t>(crow), read_ptr<Index>(col), read_ptr<int64_t>(seed_offset),
          crow.numel() - 1,        col.numel(),          n_items};
}

struct Buffers {
  at::Tensor users, pos, neg;

  Buffers(const at::Tensor& crow, int64_t batch)
      : users(at::empty({batch}, crow.options())), pos(at::empty_like(users)), neg(at::empty_like(users)) {}

  Triples pointers() const {
    return {write_ptr<int64_t>(users), write_ptr<int64_t>(pos), write_ptr<int64_t>(neg), users.numel()};
  }
};

Sample sample_bpr_cuda(const at::Tensor& crow, const at::Tensor& col, const at::Tensor& full_users, int64_t n_items,
                       int64_t batch, const at::Tensor& seed_offset) {
  check_graph(crow, col, n_items, batch, seed_offset);
  MMSSL_CHECK(full_users.scalar_type() == at::kLong && full_users.dim() == 1 && full_users.is_contiguous(), kOp,
              "full_users must be contiguous int64, got ", full_users.scalar_type(), " ", full_users.sizes());
  const int64_t n_full = full_users.numel();
  MMSSL_CHECK(batch == 0 || col.numel() > n_full * n_items, kOp, "no user has both a positive and a negative item (",
              crow.numel() - 1, " users, ", n_items, " items, ", col.numel(), " interactions)");
  const OnDevice device(crow);
  const Buffers out(crow, batch);
  with_index_type(kOp, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    launch_sample_bpr(sampled_graph<Index>(crow, col, n_items, seed_offset), read_ptr<int64_t>(full_users), n_full,
                      out.pointers(), device.stream());
  });
  return {out.users, out.pos, out.neg};
}

// The caller must check that there are enough users with a positive and a negative item. Otherwise the kernel stops
// with an assertion.
Sample sample_bpr_users_cuda(const at::Tensor& crow, const at::Tensor& col, int64_t n_items, int64_t batch,
                             const at::Tensor& seed_offset) {
  check_graph(crow, col, n_items, batch, seed_offset);
  const int64_t n_users = crow.numel() - 1;
  MMSSL_CHECK(batch <= n_users, kOp, "over=\"users\" draws without replacement: batch is ", batch, ", there are only ",
              n_users, " users");
  const OnDevice device(crow);
  const Buffers out(crow, batch);
  const at::Tensor key = at::empty({n_users}, crow.options());
  with_index_type(kOp, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    const auto graph = sampled_graph<Index>(crow, col, n_items, seed_offset);
    launch_user_keys(graph, write_ptr<int64_t>(key), device.stream());
    const at::Tensor order = std::get<1>(at::sort(key, /*stable=*/true, /*dim=*/0, /*descending=*/false));
    launch_sample_bpr_items(graph, read_ptr<int64_t>(order), out.pointers(), device.stream());
  });
  return {out.users, out.pos, out.neg};
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("sample_bpr", &mmssl::cuda::sample_bpr_cuda);
  m.impl("sample_bpr_users", &mmssl::cuda::sample_bpr_users_cuda);
}
