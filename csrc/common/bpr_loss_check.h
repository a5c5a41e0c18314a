// The checks of bpr_loss on every device: shapes, dtypes and devices. The values of the ids are checked by the binding
// on the CPU, and by the kernel on CUDA.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/check.h"
#include "common/factors.h"

namespace mmssl {

inline void check_bpr_ids(const char* op, const char* name, const at::Tensor& ids, const at::Tensor& user_emb,
                          int64_t batch) {
  MMSSL_CHECK(ids.scalar_type() == at::kLong && ids.dim() == 1 && ids.size(0) == batch, op, name, " must be int64 [",
              batch, "], as long as users, got ", ids.scalar_type(), " ", ids.sizes());
  MMSSL_CHECK(ids.device() == user_emb.device(), op, name, " must be on the device of user_emb, ", user_emb.device(),
              ", got ", ids.device());
}

inline void check_bpr_loss(const char* op, const at::Tensor& user_emb, const at::Tensor& item_emb,
                           const at::Tensor& users, const at::Tensor& pos, const at::Tensor& neg) {
  MMSSL_CHECK(user_emb.dim() == 2 && item_emb.dim() == 2 && user_emb.size(1) == item_emb.size(1), op,
              "user_emb and item_emb must be [rows, d] with the same d, got ", user_emb.sizes(), " and ",
              item_emb.sizes());
  MMSSL_CHECK(user_emb.scalar_type() == item_emb.scalar_type(), op,
              "user_emb and item_emb must have the same dtype, got ", user_emb.scalar_type(), " and ",
              item_emb.scalar_type());
  MMSSL_CHECK(user_emb.device() == item_emb.device(), op, "user_emb and item_emb must be on the same device, got ",
              user_emb.device(), " and ", item_emb.device());
  MMSSL_CHECK(users.dim() == 1, op, "users must be int64 [B], got ", users.sizes());
  check_bpr_ids(op, "users", users, user_emb, users.size(0));
  check_bpr_ids(op, "pos", pos, user_emb, users.size(0));
  check_bpr_ids(op, "neg", neg, user_emb, users.size(0));
}

// slope [B]: the gradient of the margin of every triple, in the dtype of sums.
inline void check_bpr_slope(const char* op, const at::Tensor& slope, const at::Tensor& users,
                            const at::Tensor& user_emb) {
  const at::ScalarType sums = wide_type(user_emb.scalar_type());
  MMSSL_CHECK(slope.sizes() == users.sizes() && slope.scalar_type() == sums, op, "slope must be ", sums, " ",
              users.sizes(), ", got ", slope.scalar_type(), " ", slope.sizes());
  MMSSL_CHECK(slope.device() == user_emb.device(), op, "slope and user_emb must be on the same device, got ",
              slope.device(), " and ", user_emb.device());
}

}  // namespace mmssl
