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

// The nodes of one side: their embedding at the layer reached, the sum over layers so far, and memory for the next.
struct Side {
  at::Tensor current, total, next, spare;

  Side(const at::Tensor& x, int64_t layers) : current(x), total(at::empty(x.sizes(), x.options())) {
    if (layers > 1) next = at::empty(x.sizes(), x.options());
    if (layers > 2) spare = at::empty(x.sizes(), x.options());
  }

  void step() {
    current = next;
    std::swap(next, spare);
  }
};

// One layer for one side: next = scaled sum over `senders`, total += next; at the last layer the mean instead of next.
void lightgcn_layer(const at::Tensor& crow, const at::Tensor& col, const OptionalTensor& value,
                    const OptionalTensor& receive, const OptionalTensor& send, const at::Tensor& senders, Side& side,
                    int64_t layer, int64_t layers) {
  SpmmCall call{crow, col, value, receive, send, senders};
  call.base = layer == 1 ? side.current : side.total;
  call.total = side.total;
  if (layer < layers) {
    call.y = side.next;
  } else {
    call.factor = 1.0 / static_cast<double>(layers + 1);
  }
  run_spmm("lightgcn", call);
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
  Side user(bfloat16 ? users.to(at::kFloat) : users, layers);
  Side item(bfloat16 ? items.to(at::kFloat) : items, layers);
  for (int64_t layer = 1; layer <= layers; ++layer) {
    lightgcn_layer(crow, col, value, users_receive, items_send, item.current, user, layer, layers);
    lightgcn_layer(t_crow, t_col, t_value, items_receive, users_send, user.current, item, layer, layers);
    user.step();
    item.step();
  }
  if (bfloat16) return {user.total.to(at::kBFloat16), item.total.to(at::kBFloat16)};
  return {user.total, item.total};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("lightgcn", &mmssl::lightgcn_cpu);
  m.impl("propagate", &mmssl::propagate_cpu);
}
