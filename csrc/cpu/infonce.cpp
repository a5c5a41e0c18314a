// infonce on the CPU: the log-sum-exp of the anchors over all keys, in tiles that stay in L2. The keys are the rows of
// h and e.
//
// The anchors are processed in blocks. Within a block, every chunk of keys is a task. A task writes the gradients of
// its keys directly, and writes its partial sums for the anchors separately; the partial sums are added in a fixed
// order. The chunks depend on the sizes only, so the result does not depend on the number of threads. A step computes
// four products of 2 B 2U d operations, one of them twice, because backward computes it again. Memory is O(U d) besides
// the partial sums, which are at most 64 x 1024 x d values.
//
// infonce_with_grad computes three products: it keeps exp(product) of a few anchors with all keys, and computes the
// gradient of their mean from them. Its sums have no running maximum, so tau must not be small.
//
// On processors with AMX, float32 calls are computed by infonce_pieces.cpp instead, if they suit it.
//
// An id that occurs several times among the anchors is computed once. In a batch drawn over the interactions of TikTok,
// 71% of which belong to a hundred users, only 40% of the anchors are distinct.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/distinct_ids.h"
#include "cpu/infonce.h"
#include "cpu/infonce_pieces.h"
#include "cpu/tile.h"

#define MMSSL_KERNELS "cpu/isa/infonce.h"
#include "common/each_isa.h"
#define MMSSL_KERNELS "cpu/isa/shares.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

struct Inputs : InfonceCall {
  at::Tensor exact_h, exact_e;  // h and e before they were rounded to bfloat16

  // Rounds the operands of products here, on processors where this is not done by infonce_pieces.cpp.
  void round() {
    bfloat16 = bfloat16 && h.scalar_type() == at::kFloat;
    if (!bfloat16) return;
    h = h.to(at::kBFloat16).to(at::kFloat);
    e = e.to(at::kBFloat16).to(at::kFloat);
  }

  int64_t users() const { return h.size(0); }
  int64_t anchors() const { return ids.size(0); }
  int64_t d() const { return h.size(1); }
};

Inputs read_inputs(const char* op, const at::Tensor& h, const at::Tensor& e, const at::Tensor& ids, double tau,
                   bool exclude_self, bool bfloat16) {
  MMSSL_CHECK(h.dim() == 2 && h.sizes() == e.sizes(), op, "h and e must both be [U, d], got ", h.sizes(), " and ",
              e.sizes());
  MMSSL_CHECK(h.scalar_type() == e.scalar_type(), op, "h and e must have the same dtype, got ", h.scalar_type(),
              " and ", e.scalar_type());
  MMSSL_CHECK(h.scalar_type() == at::kFloat || h.scalar_type() == at::kDouble, op,
              "unit rows must be float32 or float64, got ", h.scalar_type());
  MMSSL_CHECK(ids.dim() == 1 && ids.scalar_type() == at::kLong, op, "ids must be int64 [B], got ", ids.scalar_type(),
              " ", ids.sizes());
  MMSSL_CHECK(tau > 0, op, "tau must be positive, got ", tau);
  Inputs in{{h.contiguous(), e.contiguous(), ids.contiguous(), tau, exclude_self, bfloat16}};
  in.exact_h = in.h;
  in.exact_e = in.e;
  const int64_t* id = read_ptr<int64_t>(in.ids);
  for (int64_t b = 0; b < in.anchors(); ++b) {
    MMSSL_CHECK(id[b] >= 0 && id[b] < in.users(), op, "ids[", b, "] = ", id[b], " is outside [0, ", in.users(), ")");
  }
  return in;
}

// The anchors [begin, end) and their data.
struct Block {
  int64_t begin, end;
  at::Tensor anchors;                         // [end - begin, d]: e[ids]
  at::Tensor exact_anchors, exact_positives;  // [end - begin, d]: e[ids] and h[ids], not rounded
  const int64_t* left_out;                    // [end - begin], or nullptr

  Block(const Inputs& in, int64_t begin, int64_t end) : begin(begin), end(end) {
    const at::Tensor ids = rows_of(in.ids, begin, end);
    exact_anchors = in.exact_e.index_select(0, ids);
    exact_positives = in.exact_h.index_select(0, ids);
    anchors = in.bfloat16 ? in.e.index_select(0, ids) : exact_anchors;
    left_out = in.exclude_self ? read_ptr<int64_t>(in.ids) + begin : nullptr;
  }
  int64_t rows() const { return end - begin; }
};

// Calls f(products [rows, keys], first row, end row, first key, end key) for every tile of a block and the keys of a
// task.
template <typename F>
void for_tiles(const Inputs& in, const Block& block, const InfonceTasks& tasks, int64_t task, const at::Tensor& scratch,
               F&& f) {
  const at::Tensor& keys = tasks.within(task) ? in.e : in.h;
  for (int64_t key = tasks.begin(task); key < tasks.end(task); key += kInfonceKeys) {
    const int64_t key_end = std::min(key + kInfonceKeys, tasks.end(task));
    for (int64_t row = 0; row < block.rows(); row += kInfonceAnchors) {
      const int64_t row_end = std::min(row + kInfonceAnchors, block.rows());
      at::Tensor products = matrix_in(scratch, row_end - row, key_end - key);
      product_transposed(products, rows_of(block.anchors, row, row_end), rows_of(keys, key, key_end));
      f(products, row, row_end, key, key_end);
    }
  }
}

// Rounds the operand of a product, if it must be.
void round_weights(const Inputs& in, const at::Tensor& x) {
  if (in.bfloat16) MMSSL_DISPATCH(infonce_round, write_ptr<float>(x), x.numel());
}

template <typename T>
void forward(const Inputs& in, at::Tensor& term, at::Tensor& lse) {
  const InfonceTasks tasks(in.users());
  const T scale = static_cast<T>(1 / in.tau);
  const int64_t most = std::min(kInfonceBlock, in.anchors());
  at::Tensor highest = at::empty({tasks.count(), most}, in.h.options());
  at::Tensor sum = at::empty({tasks.count(), most}, in.h.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < in.anchors(); begin += kInfonceBlock) {
    const Block block(in, begin, std::min(begin + kInfonceBlock, in.anchors()));
    const int64_t rows = block.rows();
    highest.fill_(-std::numeric_limits<double>::infinity());
    sum.zero_();
    for_tasks(tasks.count(), [&](ChunkQueue& queue) {
      const at::Tensor scratch = at::empty({kInfonceAnchors * kInfonceKeys}, in.h.options());
      for (int64_t task; queue.take(task);) {
        const int64_t* left_out = tasks.within(task) ? block.left_out : nullptr;
        T* task_highest = write_ptr<T>(highest) + task * rows;
        double* task_sum = write_ptr<double>(sum) + task * rows;
        for_tiles(in, block, tasks, task, scratch,
                  [&](const at::Tensor& products, int64_t row, int64_t row_end, int64_t key, int64_t key_end) {
                    MMSSL_DISPATCH(infonce_sum, write_ptr<T>(products), row_end - row, key_end - key, key,
                                   left_out == nullptr ? nullptr : left_out + row, scale, task_highest + row,
                                   task_sum + row);
                  });
      }
    });
    for_rows(0, rows, rows * (in.d() + 32 * tasks.count()), [&](int64_t row, int64_t end) {
      MMSSL_DISPATCH(infonce_finish, read_ptr<T>(highest), read_ptr<double>(sum), tasks.count(), rows, scale,
                     read_ptr<T>(block.exact_anchors), read_ptr<T>(block.exact_positives), in.d(),
                     write_ptr<T>(lse) + begin, write_ptr<T>(term) + begin, row, end);
    });
  }
}

std::tuple<at::Tensor, at::Tensor> infonce_cpu(const at::Tensor& h, const at::Tensor& e, const at::Tensor& ids,
                                               double tau, bool exclude_self, bool bfloat16) {
  Inputs in = read_inputs("infonce", h, e, ids, tau, exclude_self, bfloat16);
  const Distinct distinct(in.ids);
  in.ids = distinct.ids;
  at::Tensor term = at::empty({in.anchors()}, in.h.options()), lse = at::empty({in.anchors()}, in.h.options());
  if (!infonce_forward_by_pieces(in, term, lse)) {
    in.round();
    with_wide_type(in.h.scalar_type(), [&](auto value) { forward<decltype(value)>(in, term, lse); });
  }
  return {term.index_select(0, distinct.place), lse.index_select(0, distinct.place)};
}

// Computes h_grad and e_grad, which are zero on entry. push are the weights of the gradient of the log-sum-exp, and
// pull those of the positives.
template <typename T>
void backward(const Inputs& in, const at::Tensor& push, const at::Tensor& pull, const at::Tensor& lse,
              at::Tensor& h_grad, at::Tensor& e_grad) {
  const InfonceTasks tasks(in.users());
  const T scale = static_cast<T>(1 / in.tau);
  const int64_t d = in.d(), most = std::min(kInfonceBlock, in.anchors());
  const at::Tensor shares = at::empty({tasks.count() * most, d}, in.h.options());
  at::Tensor anchor_grads = at::empty({most, d}, in.h.options());
  const int64_t* ids = read_ptr<int64_t>(in.ids);
  for (int64_t begin = 0; begin < in.anchors(); begin += kInfonceBlock) {
    const Block block(in, begin, std::min(begin + kInfonceBlock, in.anchors()));
    const int64_t rows = block.rows();
    for_tasks(tasks.count(), [&](ChunkQueue& queue) {
      const at::Tensor scratch = at::empty({kInfonceAnchors * kInfonceKeys}, in.h.options());
      for (int64_t task; queue.take(task);) {
        const int64_t* left_out = tasks.within(task) ? block.left_out : nullptr;
        const at::Tensor& keys = tasks.within(task) ? in.e : in.h;
        const at::Tensor& key_grads = tasks.within(task) ? e_grad : h_grad;
        at::Tensor share = rows_of(shares, task * rows, (task + 1) * rows);
        share.zero_();
        for_tiles(in, block, tasks, task, scratch,
                  [&](const at::Tensor& products, int64_t row, int64_t row_end, int64_t key, int64_t key_end) {
                    MMSSL_DISPATCH(infonce_weigh, write_ptr<T>(products), row_end - row, key_end - key, key,
                                   left_out == nullptr ? nullptr : left_out + row, scale,
                                   read_ptr<T>(push) + begin + row, read_ptr<T>(lse) + begin + row);
                    round_weights(in, products);
                    at::Tensor anchor_grad = rows_of(share, row, row_end), key_grad = rows_of(key_grads, key, key_end);
                    add_product(anchor_grad, products, rows_of(keys, key, key_end));
                    add_product(key_grad, products.t(), rows_of(block.anchors, row, row_end));
                  });
      }
    });
    anchor_grads.zero_();
    for_rows(0, rows, rows * d * tasks.count(), [&](int64_t row, int64_t end) {
      MMSSL_DISPATCH(add_shares, read_ptr<T>(shares), tasks.count(), rows, d, write_ptr<T>(anchor_grads), row, end);
    });
    for (int64_t r = 0; r < rows; ++r) {
      const T weight = read_ptr<T>(pull)[begin + r];
      const T* anchor = read_ptr<T>(block.exact_anchors) + r * d;
      const T* positive = read_ptr<T>(block.exact_positives) + r * d;
      const T* anchor_grad = read_ptr<T>(anchor_grads) + r * d;
      T* to_h = write_ptr<T>(h_grad) + ids[begin + r] * d;
      T* to_e = write_ptr<T>(e_grad) + ids[begin + r] * d;
      for (int64_t j = 0; j < d; ++j) {
        to_h[j] += weight * anchor[j];
        to_e[j] += anchor_grad[j] + weight * positive[j];
      }
    }
  }
}

std::tuple<at::Tensor, at::Tensor> infonce_bwd_cpu(const at::Tensor& term_grad, const at::Tensor& lse_grad,
                                                   const at::Tensor& h, const at::Tensor& e, const at::Tensor& ids,
                                                   const at::Tensor& lse, double tau, bool exclude_self,
                                                   bool bfloat16) {
  const char* op = "infonce_bwd";
  Inputs in = read_inputs(op, h, e, ids, tau, exclude_self, bfloat16);
  for (const at::Tensor* x : {&term_grad, &lse_grad, &lse}) {
    MMSSL_CHECK(x->sizes() == in.ids.sizes() && x->scalar_type() == h.scalar_type(), op,
                "gradients and lse must be [B] = ", in.ids.sizes(), " of ", h.scalar_type(), ", got ", x->sizes(),
                " of ", x->scalar_type());
  }
  const Distinct distinct(in.ids);
  const at::Tensor push = distinct.sums(term_grad.add(lse_grad).mul_(1 / tau));
  const at::Tensor pull = distinct.sums(term_grad.mul(-1 / tau));
  const at::Tensor lses = distinct.one_each(lse);
  in.ids = distinct.ids;
  at::Tensor h_grad = at::zeros(h.sizes(), h.options()), e_grad = at::zeros(e.sizes(), e.options());
  if (!infonce_backward_by_pieces(in, push, pull, lses, h_grad, e_grad)) {
    in.round();
    with_wide_type(h.scalar_type(),
                   [&](auto value) { backward<decltype(value)>(in, push, pull, lses, h_grad, e_grad); });
  }
  return {h_grad, e_grad};
}

// Adds the gradients of the weighted terms of the anchors to h_grad and e_grad, which are zero on entry, and returns
// the weighted sum of the terms. The ids are distinct.
template <typename T>
double with_grad(const Inputs& in, const double* weights, at::Tensor& h_grad, at::Tensor& e_grad) {
  const InfonceTasks tasks(in.users());
  const int64_t users = in.users(), d = in.d();
  const int64_t most =
      std::min(in.anchors(), std::clamp(kInfonceExps / (2 * users), kInfonceMinAnchors, kInfonceAnchors));
  const double scale = 1 / in.tau;
  const at::Tensor kept = at::empty({most * 2 * users}, in.h.options());
  const at::Tensor shares = at::empty({tasks.count() * most, d}, in.h.options());
  at::Tensor sum = at::empty({tasks.count(), most}, in.h.options().dtype(at::kDouble));
  at::Tensor factors = at::empty({most, 1}, in.h.options()), anchor_grads = at::empty({most, d}, in.h.options());
  const int64_t* ids = read_ptr<int64_t>(in.ids);
  double loss = 0;
  for (int64_t begin = 0; begin < in.anchors(); begin += most) {
    const Block block(in, begin, std::min(begin + most, in.anchors()));
    const int64_t rows = block.rows();
    const auto keys_of = [&](int64_t task) {
      return rows_of(tasks.within(task) ? in.e : in.h, tasks.begin(task), tasks.end(task));
    };
    const auto tile_of = [&](int64_t task) {
      const int64_t first = tasks.begin(task), width = tasks.end(task) - first;
      return kept.narrow(0, rows * (first + (tasks.within(task) ? users : 0)), rows * width).view({rows, width});
    };
    sum.zero_();
    for_tasks(tasks.count(), [&](ChunkQueue& queue) {
      for (int64_t task; queue.take(task);) {
        at::Tensor tile = tile_of(task);
        product_transposed(tile, block.anchors, keys_of(task));
        MMSSL_DISPATCH(infonce_exp, write_ptr<T>(tile), rows, tile.size(1), tasks.begin(task),
                       tasks.within(task) ? block.left_out : nullptr, static_cast<T>(scale),
                       write_ptr<double>(sum) + task * rows);
        round_weights(in, tile);
      }
    });
    const T* anchors = read_ptr<T>(block.exact_anchors);
    const T* positives = read_ptr<T>(block.exact_positives);
    T* factor = write_ptr<T>(factors);
    for (int64_t r = 0; r < rows; ++r) {
      double total = 0, product = 0;
      for (int64_t task = 0; task < tasks.count(); ++task) total += read_ptr<double>(sum)[task * rows + r];
      for (int64_t j = 0; j < d; ++j) product += static_cast<double>(anchors[r * d + j]) * positives[r * d + j];
      const double weight = weights[begin + r];
      factor[r] = static_cast<T>(scale * weight / total);
      loss += (std::log(total) + scale * (1 - product)) * weight;
    }
    const at::Tensor weighted = block.exact_anchors.mul(rows_of(factors, 0, rows));
    round_weights(in, weighted);
    for_tasks(tasks.count(), [&](ChunkQueue& queue) {
      for (int64_t task; queue.take(task);) {
        const at::Tensor tile = tile_of(task);
        at::Tensor share = rows_of(shares, task * rows, (task + 1) * rows);
        at::Tensor key_grad = rows_of(tasks.within(task) ? e_grad : h_grad, tasks.begin(task), tasks.end(task));
        at::cpu::mm_out(share, tile, keys_of(task));
        add_product(key_grad, tile.t(), weighted);
      }
    });
    anchor_grads.zero_();
    for_rows(0, rows, rows * d * tasks.count(), [&](int64_t row, int64_t end) {
      MMSSL_DISPATCH(add_shares, read_ptr<T>(shares), tasks.count(), rows, d, write_ptr<T>(anchor_grads), row, end);
    });
    const T* anchor_grad = read_ptr<T>(anchor_grads);
    for (int64_t r = 0; r < rows; ++r) {
      const T pull = static_cast<T>(-scale * weights[begin + r]);
      T* to_h = write_ptr<T>(h_grad) + ids[begin + r] * d;
      T* to_e = write_ptr<T>(e_grad) + ids[begin + r] * d;
      for (int64_t j = 0; j < d; ++j) {
        to_h[j] += pull * anchors[r * d + j];
        to_e[j] += factor[r] * anchor_grad[r * d + j] + pull * positives[r * d + j];
      }
    }
  }
  return loss;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> infonce_with_grad_cpu(const at::Tensor& h, const at::Tensor& e,
                                                                     const at::Tensor& ids, double tau,
                                                                     bool exclude_self, bool bfloat16) {
  const char* op = "infonce_with_grad";
  Inputs in = read_inputs(op, h, e, ids, tau, exclude_self, bfloat16);
  MMSSL_CHECK(2 / tau <= kInfonceSpan, op, "tau must be at least ", 2 / kInfonceSpan, ", got ", tau);
  MMSSL_CHECK(in.anchors() > 0, op, "ids must not be empty");
  at::Tensor h_grad = at::zeros(h.sizes(), h.options()), e_grad = at::zeros(e.sizes(), e.options());
  const Distinct distinct(in.ids);
  const double mean = 1.0 / static_cast<double>(in.anchors());
  const at::Tensor weights = distinct.sums(at::full(in.ids.sizes(), mean, h.options().dtype(at::kDouble)));
  in.ids = distinct.ids;
  double loss = 0;
  if (infonce_with_grad_by_pieces(in, read_ptr<double>(weights), loss, h_grad, e_grad)) {
    return {at::full({}, loss, h.options()), h_grad, e_grad};
  }
  at::Tensor term = at::empty({in.anchors()}, in.h.options()), lse = at::empty({in.anchors()}, in.h.options());
  if (infonce_forward_by_pieces(in, term, lse)) {
    infonce_backward_by_pieces(in, weights.div(tau).to(at::kFloat), weights.div(-tau).to(at::kFloat), lse, h_grad,
                               e_grad);
    for (int64_t b = 0; b < in.anchors(); ++b) loss += read_ptr<double>(weights)[b] * read_ptr<float>(term)[b];
  } else {
    in.round();
    with_wide_type(h.scalar_type(), [&](auto value) {
      loss = with_grad<decltype(value)>(in, read_ptr<double>(weights), h_grad, e_grad);
    });
  }
  return {at::full({}, loss, h.options()), h_grad, e_grad};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("infonce", &mmssl::infonce_cpu);
  m.impl("infonce_bwd", &mmssl::infonce_bwd_cpu);
  m.impl("infonce_with_grad", &mmssl::infonce_with_grad_cpu);
}
