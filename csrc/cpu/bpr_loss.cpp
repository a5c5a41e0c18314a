// bpr_loss on the CPU: checks, allocation, threads, and the gradients, whose triples are sorted by row.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "common/bpr_loss_check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/csr_transpose.h"
#include "cpu/parallel.h"
#include "cpu/spmm.h"

#define MMSSL_KERNELS "cpu/isa/bpr_loss.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

void check_range(const char* op, const char* name, const at::Tensor& ids, const char* table, int64_t rows) {
  const int64_t* id = read_ptr<int64_t>(ids);
  for (int64_t b = 0; b < ids.numel(); ++b) {
    TORCH_CHECK_INDEX(id[b] >= 0 && id[b] < rows, op, ": ", name, "[", b, "] is ", id[b], ", but ", table, " has ",
                      rows, " rows");
  }
}

void check_batch(const char* op, const at::Tensor& user_emb, const at::Tensor& item_emb, const at::Tensor& users,
                 const at::Tensor& pos, const at::Tensor& neg) {
  check_bpr_loss(op, user_emb, item_emb, users, pos, neg);
  check_range(op, "users", users, "user_emb", user_emb.size(0));
  check_range(op, "pos", pos, "item_emb", item_emb.size(0));
  check_range(op, "neg", neg, "item_emb", item_emb.size(0));
}

std::tuple<at::Tensor, at::Tensor> bpr_loss_cpu(const at::Tensor& user_emb, const at::Tensor& item_emb,
                                                const at::Tensor& users_in, const at::Tensor& pos_in,
                                                const at::Tensor& neg_in) {
  const char* op = "bpr_loss";
  const at::Tensor users = users_in.contiguous(), pos = pos_in.contiguous(), neg = neg_in.contiguous();
  check_batch(op, user_emb, item_emb, users, pos, neg);
  const at::Tensor u = columns_adjacent(user_emb), i = columns_adjacent(item_emb);
  const int64_t batch = users.size(0), d = u.size(1);
  const auto sums = u.options().dtype(wide_type(u.scalar_type()));
  at::Tensor losses = at::empty({batch}, sums), slope = at::empty({batch}, sums);
  at::Tensor mean = at::empty({}, sums);
  with_value_type(op, u.scalar_type(), [&](auto element) {
    using T = decltype(element);
    using A = wide_t<T>;
    for_rows(0, batch, batch * 3 * d, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(bpr_loss_fwd, read_ptr<T>(u), u.stride(0), read_ptr<T>(i), i.stride(0), read_ptr<int64_t>(users),
                     read_ptr<int64_t>(pos), read_ptr<int64_t>(neg), d, write_ptr<A>(losses), write_ptr<A>(slope),
                     begin, end);
    });
    const A* loss = read_ptr<A>(losses);
    double total = 0;
    for (int64_t b = 0; b < batch; ++b) total += loss[b];
    // The mean of an empty batch is NaN, like torch.mean.
    *write_ptr<A>(mean) = batch == 0 ? std::numeric_limits<A>::quiet_NaN() : static_cast<A>(total / batch);
  });
  return {mean.to(u.scalar_type()), slope};
}

// The gradient of the users: the triples are sorted by user, and every triple adds a difference of two items.
at::Tensor user_grad(const char* op, const at::Tensor& user_emb, const at::Tensor& item_emb, const at::Tensor& users,
                     const at::Tensor& pos, const at::Tensor& neg, const at::Tensor& slope) {
  const auto [rows, crow, triple, order] =
      csr_transpose(op, at::arange(users.size(0) + 1, users.options()), users, user_emb.size(0));
  const at::Tensor grad = at::zeros(user_emb.sizes(), user_emb.options()), items = columns_adjacent(item_emb);
  const int64_t n_rows = rows.size(0), d = user_emb.size(1);
  with_value_type(op, user_emb.scalar_type(), [&](auto element) {
    using T = decltype(element);
    using A = wide_t<T>;
    for_rows(0, n_rows, 2 * users.size(0) * d, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(bpr_loss_bwd_users, read_ptr<int64_t>(crow), read_ptr<int64_t>(triple), read_ptr<int64_t>(rows),
                     read_ptr<T>(items), items.stride(0), read_ptr<int64_t>(pos), read_ptr<int64_t>(neg),
                     read_ptr<A>(slope), d, write_ptr<T>(grad), begin, end);
    });
  });
  return grad;
}

// The gradient of the items: a triple has two entries, +slope u for its positive and -slope u for its negative item,
// and the entries are sorted by item.
at::Tensor item_grad(const char* op, const at::Tensor& user_emb, const at::Tensor& item_emb, const at::Tensor& users,
                     const at::Tensor& pos, const at::Tensor& neg, const at::Tensor& slope) {
  const at::Tensor items = at::stack({pos, neg}, 1).flatten(), values = at::stack({slope, slope.neg()}, 1).flatten();
  const at::Tensor senders = at::stack({users, users}, 1).flatten();
  const auto [rows, crow, entry, order] =
      csr_transpose(op, at::arange(items.size(0) + 1, items.options()), items, item_emb.size(0));
  const at::Tensor grad = at::zeros(item_emb.sizes(), item_emb.options());
  SpmmCall call{crow, senders.index_select(0, order), values.index_select(0, order), {}, {}, user_emb};
  call.rows = rows;
  call.base = grad;
  call.total = grad;
  run_spmm(op, call);
  return grad;
}

// slope is the gradient of the margin of every triple. Every row of a gradient is summed in the order of the triples.
std::tuple<at::Tensor, at::Tensor> bpr_loss_bwd_cpu(const at::Tensor& user_emb, const at::Tensor& item_emb,
                                                    const at::Tensor& users_in, const at::Tensor& pos_in,
                                                    const at::Tensor& neg_in, const at::Tensor& slope_in) {
  const char* op = "bpr_loss_bwd";
  const at::Tensor users = users_in.contiguous(), pos = pos_in.contiguous(), neg = neg_in.contiguous();
  check_batch(op, user_emb, item_emb, users, pos, neg);
  check_bpr_slope(op, slope_in, users, user_emb);
  const at::Tensor slope = slope_in.contiguous();
  return {user_grad(op, user_emb, item_emb, users, pos, neg, slope),
          item_grad(op, user_emb, item_emb, users, pos, neg, slope)};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("bpr_loss", &mmssl::bpr_loss_cpu);
  m.impl("bpr_loss_bwd", &mmssl::bpr_loss_bwd_cpu);
}
