// propagate and lightgcn as sequences of row-wise sums, for the CPU and CUDA. The ops are propagate_op<run> and
// lightgcn_op<run> with run: void(const char* op, const SpmmCall&).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <tuple>
#include <utility>

#include "common/check.h"
#include "common/spmm_call.h"

namespace mmssl {

// The nodes of one side: the matrix through which they receive, and their sum over the layers so far.
struct LightgcnSide {
  const at::Tensor &crow, &col;
  const std::optional<at::Tensor>&value, &receive, &send;
  const at::Tensor& x;
  at::Tensor total, layer;  // layer: memory for the latest layer, undefined if no later layer reads it
  int64_t added = 0;

  // Adds the next layer to the sum, and stores the layer if it has memory. The last of `layers` computes the mean.
  template <auto run>
  void add(const at::Tensor& senders, const std::optional<at::Tensor>& senders_send, bool keep, int64_t layers) {
    SpmmCall call{crow, col, value, receive, senders_send, senders};
    call.base = added == 0 ? x : total;
    call.total = total;
    if (keep) call.y = layer;
    if (++added == layers) call.factor = 1.0 / static_cast<double>(layers + 1);
    run("lightgcn", call);
  }
};

// The layers form two chains, users, items, users, ... and items, users, items, ..., which do not read each other.
// Therefore memory for one layer per side is enough for any number of layers.
template <auto run>
void lightgcn_chain(LightgcnSide* from, LightgcnSide* to, int64_t layers) {
  const at::Tensor* current = &from->x;
  for (int64_t layer = 1; layer <= layers; ++layer) {
    to->template add<run>(*current, from->send, layer < layers, layers);
    current = &to->layer;
    std::swap(from, to);
  }
}

// The backward pass propagates along t_crow, t_col and t_value. The forward pass does not read them.
template <auto run>
at::Tensor propagate_op(const at::Tensor& crow, const at::Tensor& col, const std::optional<at::Tensor>& value,
                        const at::Tensor& t_crow, const at::Tensor& t_col, const std::optional<at::Tensor>& t_value,
                        const std::optional<at::Tensor>& row_scale, const std::optional<at::Tensor>& col_scale,
                        const at::Tensor& x) {
  return call_spmm<run>("propagate", crow, col, value, row_scale, col_scale, x);
}

template <auto run>
std::tuple<at::Tensor, at::Tensor> lightgcn_op(
    const at::Tensor& crow, const at::Tensor& col, const std::optional<at::Tensor>& value, const at::Tensor& t_crow,
    const at::Tensor& t_col, const std::optional<at::Tensor>& t_value, const std::optional<at::Tensor>& users_receive,
    const std::optional<at::Tensor>& users_send, const std::optional<at::Tensor>& items_receive,
    const std::optional<at::Tensor>& items_send, const at::Tensor& users, const at::Tensor& items, int64_t layers) {
  const char* op = "lightgcn";
  MMSSL_CHECK(users.dim() == 2 && items.dim() == 2 && users.size(1) == items.size(1), op,
              "users and items must be [rows, d] with the same d, got ", users.sizes(), " and ", items.sizes());
  MMSSL_CHECK(users.scalar_type() == items.scalar_type(), op, "users and items must have the same dtype, got ",
              users.scalar_type(), " and ", items.scalar_type());
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() == users.size(0) + 1, op, "crow must be [", users.size(0) + 1, "], got ",
              crow.sizes());
  MMSSL_CHECK(t_crow.dim() == 1 && t_crow.numel() == items.size(0) + 1, op, "t_crow must be [", items.size(0) + 1,
              "], got ", t_crow.sizes());
  MMSSL_CHECK(layers >= 0 && layers <= 1024, op, "layers must be from 0 to 1024, got ", layers);
  if (layers == 0) {
    return {users.clone(at::MemoryFormat::Contiguous), items.clone(at::MemoryFormat::Contiguous)};
  }
  // With bfloat16, every layer would be rounded before the next layer reads it. All layers are float32 instead.
  const bool bfloat16 = users.scalar_type() == at::kBFloat16;
  const at::Tensor u = bfloat16 ? users.to(at::kFloat) : users, i = bfloat16 ? items.to(at::kFloat) : items;
  LightgcnSide user{crow, col, value, users_receive, users_send, u, at::empty(u.sizes(), u.options())};
  LightgcnSide item{t_crow, t_col, t_value, items_receive, items_send, i, at::empty(i.sizes(), i.options())};
  if (layers > 1) {
    user.layer = at::empty(u.sizes(), u.options());
    item.layer = at::empty(i.sizes(), i.options());
  }
  lightgcn_chain<run>(&user, &item, layers);
  lightgcn_chain<run>(&item, &user, layers);
  if (bfloat16) return {user.total.to(at::kBFloat16), item.total.to(at::kBFloat16)};
  return {user.total, item.total};
}

}  // namespace mmssl
