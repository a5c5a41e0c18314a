// propagate and lightgcn on the CPU: sequences of the row-wise sums in spmm.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <utility>

#include "common/check.h"
#include "cpu/spmm.h"

namespace mmssl {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// t_crow, t_col and t_value are what backward propagates along; forward does not read them.
at::Tensor propagate_cpu(const at::Tensor& crow, const at::Tensor& col, const OptionalTensor& value,
                         const at::Tensor& t_crow, const at::Tensor& t_col, const OptionalTensor& t_value,
                         const OptionalTensor& row_scale, const OptionalTensor& col_scale, const at::Tensor& x) {
  const char* op = "propagate";
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() > 0, op, "crow must be [rows + 1], got ", crow.sizes());
  MMSSL_CHECK(x.dim() == 2, op, "x must be [rows, d], got ", x.sizes());
  SpmmCall call{crow, col, value, row_scale, col_scale, x};
  call.y = at::empty({crow.numel() - 1, x.size(1)}, x.options());
  run_spmm(op, call);
  return call.y;
}

// The nodes of one side: what they receive through, and their sum over the layers so far.
struct Side {
  const at::Tensor &crow, &col;
  const OptionalTensor &value, &receive, &send;
  const at::Tensor& x;
  at::Tensor total, layer;  // layer: memory for the latest one, undefined where no later layer reads it
  int64_t added = 0;

  // The next layer's part of the sum, and the layer itself if it is kept; after the last of `layers`, the mean.
  void add(const at::Tensor& senders, const OptionalTensor& senders_send, bool keep, int64_t layers) {
    SpmmCall call{crow, col, value, receive, senders_send, senders};
    call.base = added == 0 ? x : total;
    call.total = total;
    if (keep) call.y = layer;
    if (++added == layers) call.factor = 1.0 / static_cast<double>(layers + 1);
    run_spmm("lightgcn", call);
  }
};

// The layers that start from one side's embeddings alternate between the sides and never read the other such chain:
// users, items, users, ... and items, users, items, ... So one layer's memory a side is enough, whatever their number.
void lightgcn_chain(Side* from, Side* to, int64_t layers) {
  const at::Tensor* current = &from->x;
  for (int64_t layer = 1; layer <= layers; ++layer) {
    to->add(*current, from->send, layer < layers, layers);
    current = &to->layer;
    std::swap(from, to);
  }
}

std::tuple<at::Tensor, at::Tensor> lightgcn_cpu(const at::Tensor& crow, const at::Tensor& col,
                                                const OptionalTensor& value, const at::Tensor& t_crow,
                                                const at::Tensor& t_col, const OptionalTensor& t_value,
                                                const OptionalTensor& users_receive, const OptionalTensor& users_send,
                                                const OptionalTensor& items_receive, const OptionalTensor& items_send,
                                                const at::Tensor& users, const at::Tensor& items, int64_t layers) {
  const char* op = "lightgcn";
  MMSSL_CHECK(users.dim() == 2 && items.dim() == 2 && users.size(1) == items.size(1), op,
              "users and items must be [rows, d] of one d, got ", users.sizes(), " and ", items.sizes());
  MMSSL_CHECK(users.scalar_type() == items.scalar_type(), op, "users are ", users.scalar_type(), ", items are ",
              items.scalar_type());
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() == users.size(0) + 1, op, "crow must be [", users.size(0) + 1, "], got ",
              crow.sizes());
  MMSSL_CHECK(t_crow.dim() == 1 && t_crow.numel() == items.size(0) + 1, op, "t_crow must be [", items.size(0) + 1,
              "], got ", t_crow.sizes());
  MMSSL_CHECK(layers >= 0, op, "layers must not be negative, got ", layers);
  if (layers == 0) {
    return {users.clone(at::MemoryFormat::Contiguous), items.clone(at::MemoryFormat::Contiguous)};
  }
  // Layers of bfloat16 would each round what the next one sums: the whole recursion is float32 then.
  const bool bfloat16 = users.scalar_type() == at::kBFloat16;
  const at::Tensor u = bfloat16 ? users.to(at::kFloat) : users, i = bfloat16 ? items.to(at::kFloat) : items;
  Side user{crow, col, value, users_receive, users_send, u, at::empty(u.sizes(), u.options())};
  Side item{t_crow, t_col, t_value, items_receive, items_send, i, at::empty(i.sizes(), i.options())};
  if (layers > 1) {
    user.layer = at::empty(u.sizes(), u.options());
    item.layer = at::empty(i.sizes(), i.options());
  }
  lightgcn_chain(&user, &item, layers);
  lightgcn_chain(&item, &user, layers);
  if (bfloat16) return {user.total.to(at::kBFloat16), item.total.to(at::kBFloat16)};
  return {user.total, item.total};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("lightgcn", &mmssl::lightgcn_cpu);
  m.impl("propagate", &mmssl::propagate_cpu);
}
