// bpr_loss on CUDA. Ids are checked on the device. An id outside its table stops the kernel with an assertion.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "common/bpr_loss_check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/spmm_call.h"
#include "cuda/bpr_loss.h"
#include "cuda/library.h"

namespace mmssl::cuda {
namespace {

// The tensors to which a BprBatch points.
struct Batch {
  at::Tensor user_emb, item_emb, users, pos, neg;

  Batch(const char* op, const at::Tensor& user_emb_in, const at::Tensor& item_emb_in, const at::Tensor& users_in,
        const at::Tensor& pos_in, const at::Tensor& neg_in) {
    check_bpr_loss(op, user_emb_in, item_emb_in, users_in, pos_in, neg_in);
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
  const auto options = user_emb.options().dtype(wide_type(user_emb.scalar_type()));
  const at::Tensor losses = at::empty({users.size(0)}, options), slope = at::empty({users.size(0)}, options);
  with_value_type(op, user_emb.scalar_type(), [&](auto element) {
    using T = decltype(element);
    launch_bpr_loss(batch.pointers<T>(), write_ptr<wide_t<T>>(losses), write_ptr<wide_t<T>>(slope), device.stream());
  });
  return {at::mean(losses, at::kDouble).to(user_emb.scalar_type()), slope};
}

// slope is the gradient of the margin of every triple. Every row of a gradient is summed in a fixed order, because the
// sort is stable.
std::tuple<at::Tensor, at::Tensor> bpr_loss_bwd_cuda(const at::Tensor& user_emb, const at::Tensor& item_emb,
                                                     const at::Tensor& users, const at::Tensor& pos,
                                                     const at::Tensor& neg, const at::Tensor& slope_in) {
  const char* op = "bpr_loss_bwd";
  const OnDevice device(user_emb);
  const Batch batch(op, user_emb, item_emb, users, pos, neg);
  check_bpr_slope(op, slope_in, users, user_emb);
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
    const auto* s = read_ptr<wide_t<T>>(slope);
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
