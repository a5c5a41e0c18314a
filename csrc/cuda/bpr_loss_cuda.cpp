// bpr_loss on CUDA. Ids are checked on the device: one outside its table traps.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>
#include <type_traits>

#include "common/check.h"
#include "common/dispatch.h"
#include "cuda/bpr_loss.h"
#include "cuda/library.h"

namespace mmssl::cuda {
namespace {

template <typename T>
using Sums = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

void check_ids(const char* op, const char* name, const at::Tensor& ids, const at::Tensor& user_emb, int64_t batch) {
  MMSSL_CHECK(ids.scalar_type() == at::kLong && ids.dim() == 1 && ids.size(0) == batch, op, name, " must be int64 [",
              batch, "], as long as users, got ", ids.scalar_type(), " ", ids.sizes());
  MMSSL_CHECK(ids.device() == user_emb.device(), op, name, " is on ", ids.device(), ", user_emb on ",
              user_emb.device());
}

void check_batch(const char* op, const at::Tensor& user_emb, const at::Tensor& item_emb, const at::Tensor& users,
                 const at::Tensor& pos, const at::Tensor& neg) {
  MMSSL_CHECK(user_emb.dim() == 2 && item_emb.dim() == 2 && user_emb.size(1) == item_emb.size(1), op,
              "user_emb and item_emb must be [rows, d] of one d, got ", user_emb.sizes(), " and ", item_emb.sizes());
  MMSSL_CHECK(user_emb.scalar_type() == item_emb.scalar_type(), op, "user_emb is ", user_emb.scalar_type(),
              ", item_emb is ", item_emb.scalar_type());
  MMSSL_CHECK(user_emb.device() == item_emb.device(), op, "user_emb is on ", user_emb.device(), ", item_emb on ",
              item_emb.device());
  MMSSL_CHECK(users.dim() == 1, op, "users must be int64 [B], got ", users.sizes());
  check_ids(op, "users", users, user_emb, users.size(0));
  check_ids(op, "pos", pos, user_emb, users.size(0));
  check_ids(op, "neg", neg, user_emb, users.size(0));
}

at::Tensor columns_adjacent(const at::Tensor& x) { return x.size(1) <= 1 || x.stride(1) == 1 ? x : x.contiguous(); }

at::ScalarType sums_type(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? at::kFloat : x.scalar_type();
}

// The tensors a BprBatch points into.
struct Batch {
  at::Tensor user_emb, item_emb, users, pos, neg;

  Batch(const char* op, const at::Tensor& user_emb_in, const at::Tensor& item_emb_in, const at::Tensor& users_in,
        const at::Tensor& pos_in, const at::Tensor& neg_in) {
    check_batch(op, user_emb_in, item_emb_in, users_in, pos_in, neg_in);
    user_emb = columns_adjacent(user_emb_in);
    item_emb = columns_adjacent(item_emb_in);
    users = users_in.contiguous();
    pos = pos_in.contiguous();
    neg = neg_in.contiguous();
  }

  template <typename T>
  BprBatch<T> pointers() const {
    return {read_ptr<T>(user_emb),  read_ptr<T>(item_emb),  user_emb.size(0), user_emb.stride(0),
            item_emb.size(0),       item_emb.stride(0),     user_emb.size(1), read_ptr<int64_t>(users),
            read_ptr<int64_t>(pos), read_ptr<int64_t>(neg), users.size(0)};
  }
};

std::tuple<at::Tensor, at::Tensor> bpr_loss_cuda(const at::Tensor& user_emb, const at::Tensor& item_emb,
                                                 const at::Tensor& users, const at::Tensor& pos,
                                                 const at::Tensor& neg) {
  const char* op = "bpr_loss";
  const OnDevice device(user_emb);
  const Batch batch(op, user_emb, item_emb, users, pos, neg);
  const auto options = user_emb.options().dtype(sums_type(user_emb));
  const at::Tensor losses = at::empty({users.size(0)}, options), slope = at::empty({users.size(0)}, options);
  with_value_type(op, user_emb.scalar_type(), [&](auto element) {
    using T = decltype(element);
    launch_bpr_loss(batch.pointers<T>(), write_ptr<Sums<T>>(losses), write_ptr<Sums<T>>(slope), device.stream());
  });
  return {at::mean(losses, at::kDouble).to(user_emb.scalar_type()), slope};
}

// slope: the gradient of every triple's margin. Each row of a gradient is summed in a fixed order: sorting is stable.
std::tuple<at::Tensor, at::Tensor> bpr_loss_bwd_cuda(const at::Tensor& user_emb, const at::Tensor& item_emb,
                                                     const at::Tensor& users, const at::Tensor& pos,
                                                     const at::Tensor& neg, const at::Tensor& slope_in) {
  const char* op = "bpr_loss_bwd";
  const OnDevice device(user_emb);
  const Batch batch(op, user_emb, item_emb, users, pos, neg);
  const at::ScalarType sums = sums_type(user_emb);
  MMSSL_CHECK(slope_in.sizes() == users.sizes() && slope_in.scalar_type() == sums, op, "slope must be ", sums, " ",
              users.sizes(), ", got ", slope_in.scalar_type(), " ", slope_in.sizes());
  const at::Tensor slope = slope_in.contiguous();
  const at::Tensor user_grad = at::zeros(user_emb.sizes(), user_emb.options());
  const at::Tensor item_grad = at::zeros(item_emb.sizes(), item_emb.options());
  const auto [by_user, user_order] = at::sort(batch.users, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const auto [by_item, item_order] =
      at::sort(at::cat({batch.pos, batch.neg}), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const auto sorted_users = read_ptr<int64_t>(by_user), sorted_items = read_ptr<int64_t>(by_item);
  const auto order_users = read_ptr<int64_t>(user_order), order_items = read_ptr<int64_t>(item_order);
  with_value_type(op, user_emb.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const auto* s = read_ptr<Sums<T>>(slope);
    launch_bpr_user_grad(batch.pointers<T>(), s, sorted_users, order_users, write_ptr<T>(user_grad), device.stream());
    launch_bpr_item_grad(batch.pointers<T>(), s, sorted_items, order_items, write_ptr<T>(item_grad), device.stream());
  });
  return {user_grad, item_grad};
}

}  // namespace
}  // namespace mmssl::cuda

MMSSL_CUDA_LIBRARY(m) {
  m.impl("bpr_loss", &mmssl::cuda::bpr_loss_cuda);
  m.impl("bpr_loss_bwd", &mmssl::cuda::bpr_loss_bwd_cuda);
}
