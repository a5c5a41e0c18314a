// infonce by bfloat16 products with float32 sums. A processor with AMX computes six of them in less time than one
// float32 product, and one with AVX512-BF16 alone about two. So the latter is used for rounded operands only. Six
// products of pieces of 8 bits have the precision of float32: of the nine pairs of pieces, those left out are below
// 2^-24 of the product.
//
// The tasks and their order are those of infonce.cpp. With AMX, the products of a tile are computed again in backward
// also in infonce_with_grad, because to keep them would cost more than to compute them. Per pair of anchor and key,
// there are four products of 2 d operations per pair of pieces, and two exponentials. Memory besides the gradients is
// that of the partial sums. Without AMX, infonce_with_grad_by_pieces keeps exp(product) in bfloat16: three products and
// one exponential. The file has over 400 lines because the three functions share the groups of anchors and the tiles.
#include "cpu/infonce_pieces.h"

#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/dispatch.h"
#include "common/isa.h"
#include "cpu/infonce.h"
#include "cpu/tile.h"

#define MMSSL_KERNELS "cpu/isa/infonce_pieces.h"
#include "common/each_isa.h"
#define MMSSL_KERNELS "cpu/isa/shares.h"
#include "common/each_isa.h"

#if defined(__x86_64__)
namespace mmssl {
namespace {

namespace isa = avx512;

constexpr int64_t kKeys = isa::kPiecesKeys, kStep = isa::kPiecesStep;
constexpr int64_t kAnchors = 128;      // maximum number of anchors of a tile, whose products then stay in L1
constexpr int64_t kLeastAnchors = 32;  // with fewer, tiles would mostly be padding
constexpr double kLog2E = 1.4426950408889634;

int64_t rounded_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

at::Tensor halves(int64_t n) { return at::empty({n}, at::TensorOptions().dtype(at::kBFloat16)); }

// The matrices of the pieces of one factor, `size` values each.
struct Factor {
  const BFloat16* data;
  int64_t size;
};

void product(int64_t m, int64_t n, int64_t k, Factor a, Factor b, int pieces, bool add, float* c) {
  if (!infonce_has_pieces()) return isa::vector_product(m, n, k, a.data, false, b.data, add, c);
  isa::pieces_product(m, n, k, a.data, a.size, b.data, b.size, pieces, add, c);
}

// Without the matrix unit, a left factor is read in pairs of any step, which are quicker to make than the transpose.

// The left factor of a product with aᵀ [m, k], from the rows of a: [k, m].
void as_left_transposed(const BFloat16* rows, int64_t k, int64_t m, int pieces, BFloat16* out) {
  if (!infonce_has_pieces()) return isa::pieces_pairs(rows, k, m, pieces, out);
  isa::pieces_transposed(rows, k, m, pieces, out);
}

// c = aᵀ b, or c += aᵀ b, with a from as_left_transposed.
void transposed_product(int64_t m, int64_t n, int64_t k, Factor a, Factor b, int pieces, bool add, float* c) {
  if (!infonce_has_pieces()) return isa::vector_product(m, n, k, a.data, true, b.data, add, c);
  product(m, n, k, a, b, pieces, add, c);
}

// The anchors [begin, end) in groups of equal width, filled up with rows of 0.
struct Groups {
  int64_t begin, rows, width, count, depth;  // depth: d rounded up
  int pieces;
  at::Tensor anchors, positives;  // [rows, d]
  at::Tensor columns;             // [count, pieces, depth / 2, width, 2]: the anchors as right factor of keys
  at::Tensor pairs;               // [count, pieces, width / 2, depth, 2]: push times the anchors, in backward

  Groups(const InfonceCall& in, int pieces, int64_t begin, int64_t end)
      : begin(begin), rows(end - begin), depth(rounded_up(in.h.size(1), 32)), pieces(pieces) {
    width = std::min(kAnchors, rounded_up(rows, 32));
    count = (rows + width - 1) / width;
    const at::Tensor ids = rows_of(in.ids, begin, end);
    anchors = in.e.index_select(0, ids);
    positives = in.h.index_select(0, ids);
    columns = halves(count * size());
    split(nullptr, [&](const BFloat16* rows, int64_t g) {
      isa::pieces_transposed_pairs(rows, width, depth, pieces, write_ptr<BFloat16>(columns) + g * size());
    });
  }

  // Sets `pairs`. push [rows]
  void weigh(const float* push) {
    pairs = halves(count * size());
    split(push, [&](const BFloat16* rows, int64_t g) {
      isa::pieces_pairs(rows, width, depth, pieces, write_ptr<BFloat16>(pairs) + g * size());
    });
  }

  // Calls f(the pieces of a group's anchors times `scale`, group).
  template <typename F>
  void split(const float* scale, F&& f) const {
    const at::Tensor scratch = halves(size());
    const int64_t d = anchors.size(1);
    for (int64_t g = 0; g < count; ++g) {
      const int64_t first = g * width;
      isa::pieces_rows(read_ptr<float>(anchors) + first * d, scale == nullptr ? nullptr : scale + first,
                       std::min(width, rows - first), d, width, depth, pieces, write_ptr<BFloat16>(scratch));
      f(read_ptr<BFloat16>(scratch), g);
    }
  }

  int64_t size() const { return pieces * width * depth; }
  int64_t padded() const { return count * width; }
  Factor of(const at::Tensor& matrices, int64_t g) const {
    return {read_ptr<BFloat16>(matrices) + g * size(), width * depth};
  }
};

// The number of pieces per float32 number: 1, or 3 for the precision of float32. 0 if the processor or the call does
// not suit.
int pieces_of(const InfonceCall& call) {
  const bool suits = call.h.scalar_type() == at::kFloat && call.ids.size(0) >= kLeastAnchors &&
                     2 / call.tau <= kInfonceSpan;  // there is no running maximum
  if (!suits || !infonce_has_bfloat16()) return 0;
  if (call.bfloat16) return 1;
  return infonce_has_pieces() ? 3 : 0;
}

// Runs f(task) for all tasks, with one scratch object per thread, and releases the matrix unit afterwards.
template <typename Scratch, typename F>
void run(const InfonceTasks& tasks, const Groups& groups, F&& f) {
  for_tasks(tasks.count(), [&](ChunkQueue& queue) {
    Scratch scratch(groups);
    if (infonce_has_pieces()) isa::matrix_unit_begin();
    for (int64_t task; queue.take(task);) f(task, scratch);
    if (infonce_has_pieces()) isa::matrix_unit_end();
  });
}

struct ForwardScratch {
  at::Tensor keys, products;

  explicit ForwardScratch(const Groups& groups)
      : keys(halves(groups.pieces * kKeys * groups.depth)),
        products(at::empty({kStep, groups.width}, at::TensorOptions().dtype(at::kFloat))) {}
};

struct BackwardScratch : ForwardScratch {
  at::Tensor transposed, rows, pairs, grads;

  explicit BackwardScratch(const Groups& groups)
      : ForwardScratch(groups),
        transposed(halves(groups.pieces * kKeys * groups.depth)),
        rows(halves(groups.pieces * kKeys * groups.width)),
        pairs(halves(groups.pieces * kKeys * groups.width)),
        grads(at::empty({kKeys, groups.depth}, products.options())) {}
};

// Calls f(products [kStep, width], first key, keys) for the keys of a tile, kStep at a time; -inf where a key is
// excluded. first_key is that of the tile, or -1 if none is excluded.
template <typename F>
void tile_products(const InfonceCall& call, const Groups& groups, int64_t g, int64_t first_key, int64_t keys,
                   ForwardScratch& scratch, F&& f) {
  float* products = write_ptr<float>(scratch.products);
  const int64_t* begin = read_ptr<int64_t>(call.ids) + groups.begin + g * groups.width;
  const int64_t* end = begin + std::min(groups.width, groups.rows - g * groups.width);
  for (int64_t k = 0; k < kKeys; k += kStep) {
    const Factor left{read_ptr<BFloat16>(scratch.keys) + k * groups.depth, kKeys * groups.depth};
    product(kStep, groups.width, groups.depth, left, groups.of(groups.columns, g), groups.pieces, false, products);
    const int64_t first = first_key + k, count = std::clamp<int64_t>(keys - k, 0, kStep);
    if (first_key >= 0) {
      for (const int64_t* id = std::lower_bound(begin, end, first); id != end && *id < first + count; ++id) {
        products[(*id - first) * groups.width + (id - begin)] = -std::numeric_limits<float>::infinity();
      }
    }
    f(products, k, count);
  }
}

// Adds the gradients of the anchors: the sum of the tasks' shares [tasks, groups, depth, width] times push [rows], and
// the gradients of the positives times pull [rows].
void add_anchor_gradients(const InfonceCall& call, const Groups& groups, const InfonceTasks& tasks,
                          const at::Tensor& shares, const float* push, const float* pull, at::Tensor& h_grad,
                          at::Tensor& e_grad) {
  const int64_t d = call.h.size(1), sums = groups.count * groups.depth;  // rows of `width` sums
  const at::Tensor totals = at::zeros({sums * groups.width}, call.h.options());
  for_rows(0, sums, sums * groups.width * tasks.count(), [&](int64_t first, int64_t last) {
    MMSSL_DISPATCH(add_shares, read_ptr<float>(shares), tasks.count(), sums, groups.width, write_ptr<float>(totals),
                   first, last);
  });
  for (int64_t r = 0; r < groups.rows; ++r) {
    const int64_t id = read_ptr<int64_t>(call.ids)[groups.begin + r];
    const float* anchor = read_ptr<float>(groups.anchors) + r * d;
    const float* positive = read_ptr<float>(groups.positives) + r * d;
    const float* grad = read_ptr<float>(totals) + r / groups.width * groups.depth * groups.width + r % groups.width;
    float* to_h = write_ptr<float>(h_grad) + id * d;
    float* to_e = write_ptr<float>(e_grad) + id * d;
    for (int64_t j = 0; j < d; ++j) {
      to_h[j] += pull[r] * anchor[j];
      to_e[j] += push[r] * grad[j * groups.width] + pull[r] * positive[j];
    }
  }
}

// The cosine of an anchor and its positive.
double positive_cosine(const Groups& groups, int64_t row) {
  const int64_t d = groups.anchors.size(1);
  const float* anchor = read_ptr<float>(groups.anchors) + row * d;
  const float* positive = read_ptr<float>(groups.positives) + row * d;
  double product = 0;
  for (int64_t j = 0; j < d; ++j) product += static_cast<double>(anchor[j]) * positive[j];
  return product;
}

}  // namespace

bool infonce_has_bfloat16() {
  static const bool supported = isa_in_use() == Isa::avx512 && __builtin_cpu_supports("avx512bf16");
  return supported;
}

int64_t infonce_kept_anchors(int64_t users) {
  const int64_t fit = kInfonceKept / (2 * std::max<int64_t>(users, 1)) / kAnchors * kAnchors;
  return std::clamp(fit, kInfonceKeptAnchors, kInfonceBlock);
}

bool infonce_has_pieces() {
  static const bool supported = infonce_has_bfloat16() && __builtin_cpu_supports("amx-bf16") && at::cpu::init_amx();
  return supported;
}

bool infonce_forward_by_pieces(const InfonceCall& call, at::Tensor& term, at::Tensor& lse) {
  const int pieces = pieces_of(call);
  if (pieces == 0) return false;
  const at::Tensor &h = call.h, &e = call.e, &ids = call.ids;
  const InfonceTasks tasks(h.size(0));
  const int64_t d = h.size(1), n = ids.size(0);
  const float scale = static_cast<float>(kLog2E / call.tau);
  for (int64_t begin = 0; begin < n; begin += kInfonceBlock) {
    const Groups groups(call, pieces, begin, std::min(begin + kInfonceBlock, n));
    const at::Tensor sums = at::zeros({tasks.count(), groups.padded()}, h.options().dtype(at::kDouble));
    run<ForwardScratch>(tasks, groups, [&](int64_t task, ForwardScratch& scratch) {
      const float* keys = read_ptr<float>(tasks.within(task) ? e : h);
      double* sum = write_ptr<double>(sums) + task * groups.padded();
      for (int64_t key = tasks.begin(task); key < tasks.end(task); key += kKeys) {
        const int64_t count = std::min(kKeys, tasks.end(task) - key);
        isa::pieces_rows(keys + key * d, nullptr, count, d, kKeys, groups.depth, pieces,
                         write_ptr<BFloat16>(scratch.keys));
        for (int64_t g = 0; g < groups.count; ++g) {
          const int64_t exclude = call.exclude_self && tasks.within(task) ? key : -1;
          tile_products(call, groups, g, exclude, count, scratch, [&](const float* products, int64_t, int64_t n_keys) {
            // The shift is that of a cosine of 1, the largest.
            isa::pieces_sum(products, n_keys, groups.width, scale, scale, sum + g * groups.width);
          });
        }
      }
    });
    for (int64_t r = 0; r < groups.rows; ++r) {
      double total = 0;
      for (int64_t task = 0; task < tasks.count(); ++task) total += read_ptr<double>(sums)[task * groups.padded() + r];
      const double denominator = std::log(total) + scale / kLog2E;
      write_ptr<float>(lse)[begin + r] = static_cast<float>(denominator);
      write_ptr<float>(term)[begin + r] = static_cast<float>(denominator - positive_cosine(groups, r) / call.tau);
    }
  }
  return true;
}

bool infonce_backward_by_pieces(const InfonceCall& call, const at::Tensor& push, const at::Tensor& pull,
                                const at::Tensor& lse, at::Tensor& h_grad, at::Tensor& e_grad) {
  const int pieces = pieces_of(call);
  if (pieces == 0) return false;
  const at::Tensor &h = call.h, &e = call.e, &ids = call.ids;
  const InfonceTasks tasks(h.size(0));
  const int64_t d = h.size(1), n = ids.size(0);
  const float scale = static_cast<float>(kLog2E / call.tau);
  at::Tensor
      shares;  // the gradients of the anchors, without their weights and transposed: [tasks, groups, depth, width]
  for (int64_t begin = 0; begin < n; begin += kInfonceBlock) {
    Groups groups(call, pieces, begin, std::min(begin + kInfonceBlock, n));
    groups.weigh(read_ptr<float>(push) + begin);
    const int64_t share_size = groups.depth * groups.padded();
    if (!shares.defined()) shares = at::empty({tasks.count() * share_size}, h.options());  // the first block is largest
    const at::Tensor shifts = at::zeros({groups.padded()}, h.options());
    float* shift = write_ptr<float>(shifts);
    for (int64_t r = 0; r < groups.rows; ++r) {
      shift[r] = static_cast<float>(read_ptr<float>(lse)[begin + r] * kLog2E);
    }
    run<BackwardScratch>(tasks, groups, [&](int64_t task, BackwardScratch& scratch) {
      const float* keys = read_ptr<float>(tasks.within(task) ? e : h);
      float* key_grads = write_ptr<float>(tasks.within(task) ? e_grad : h_grad);
      float* share = write_ptr<float>(shares) + task * share_size;
      float* grads = write_ptr<float>(scratch.grads);
      BFloat16* rows = write_ptr<BFloat16>(scratch.rows);
      BFloat16* pairs = write_ptr<BFloat16>(scratch.pairs);
      const Factor transposed{read_ptr<BFloat16>(scratch.transposed), kKeys * groups.depth};
      for (int64_t key = tasks.begin(task); key < tasks.end(task); key += kKeys) {
        const int64_t count = std::min(kKeys, tasks.end(task) - key);
        BFloat16* split = write_ptr<BFloat16>(scratch.keys);
        isa::pieces_rows(keys + key * d, nullptr, count, d, kKeys, groups.depth, pieces, split);
        as_left_transposed(split, kKeys, groups.depth, pieces, write_ptr<BFloat16>(scratch.transposed));
        for (int64_t g = 0; g < groups.count; ++g) {
          const int64_t exclude = call.exclude_self && tasks.within(task) ? key : -1;
          tile_products(call, groups, g, exclude, count, scratch,
                        [&](const float* products, int64_t k, int64_t n_keys) {
                          isa::pieces_weigh(products, n_keys, groups.width, scale, shift + g * groups.width, pieces, k,
                                            rows, pairs);
                        });
          const int64_t size = kKeys * groups.width;
          product(kKeys, groups.depth, groups.width, {rows, size}, groups.of(groups.pairs, g), pieces, g > 0, grads);
          transposed_product(groups.depth, groups.width, kKeys, transposed, {pairs, size}, pieces,
                             key > tasks.begin(task), share + g * groups.depth * groups.width);
        }
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t j = 0; j < d; ++j) key_grads[(key + k) * d + j] += grads[k * groups.depth + j];
        }
      }
    });
    add_anchor_gradients(call, groups, tasks, shares, read_ptr<float>(push) + begin, read_ptr<float>(pull) + begin,
                         h_grad, e_grad);
  }
  return true;
}

bool infonce_with_grad_by_pieces(const InfonceCall& call, const double* weights, double& loss, at::Tensor& h_grad,
                                 at::Tensor& e_grad) {
  if (pieces_of(call) != 1 || infonce_has_pieces()) return false;
  const at::Tensor &h = call.h, &e = call.e, &ids = call.ids;
  const InfonceTasks tasks(h.size(0));
  const int64_t d = h.size(1), n = ids.size(0), users = rounded_up(h.size(0), kKeys);
  const int64_t most = infonce_kept_anchors(h.size(0));
  const float scale = static_cast<float>(kLog2E / call.tau);
  at::Tensor shares;  // as in infonce_backward_by_pieces
  at::Tensor kept;    // the weights of all keys of h, then of e: [keys / kKeys, groups, kKeys, width]
  for (int64_t begin = 0; begin < n; begin += most) {
    Groups groups(call, 1, begin, std::min(begin + most, n));
    const int64_t share_size = groups.depth * groups.padded();
    if (!kept.defined()) {  // the first block is the largest
      shares = at::empty({tasks.count() * share_size}, h.options());
      kept = halves(2 * users * groups.padded());
    }
    const at::Tensor sums = at::zeros({tasks.count(), groups.padded()}, h.options().dtype(at::kDouble));
    const auto kept_of = [&](int64_t task, int64_t key) {
      return write_ptr<BFloat16>(kept) + (key + (tasks.within(task) ? users : 0)) * groups.padded();
    };
    run<BackwardScratch>(tasks, groups, [&](int64_t task, BackwardScratch& scratch) {
      const float* keys = read_ptr<float>(tasks.within(task) ? e : h);
      double* sum = write_ptr<double>(sums) + task * groups.padded();
      float* share = write_ptr<float>(shares) + task * share_size;
      BFloat16* pairs = write_ptr<BFloat16>(scratch.pairs);
      const Factor transposed{read_ptr<BFloat16>(scratch.transposed), kKeys * groups.depth};
      for (int64_t key = tasks.begin(task); key < tasks.end(task); key += kKeys) {
        const int64_t count = std::min(kKeys, tasks.end(task) - key), size = kKeys * groups.width;
        BFloat16* split = write_ptr<BFloat16>(scratch.keys);
        isa::pieces_rows(keys + key * d, nullptr, count, d, kKeys, groups.depth, 1, split);
        as_left_transposed(split, kKeys, groups.depth, 1, write_ptr<BFloat16>(scratch.transposed));
        for (int64_t g = 0; g < groups.count; ++g) {
          const int64_t exclude = call.exclude_self && tasks.within(task) ? key : -1;
          BFloat16* rows = kept_of(task, key) + g * size;
          tile_products(
              call, groups, g, exclude, count, scratch, [&](const float* products, int64_t k, int64_t n_keys) {
                isa::pieces_exp(products, n_keys, groups.width, scale, k, rows, pairs, sum + g * groups.width);
              });
          transposed_product(groups.depth, groups.width, kKeys, transposed, {pairs, size}, 1, key > tasks.begin(task),
                             share + g * groups.depth * groups.width);
        }
      }
    });
    const at::Tensor factors = at::empty({2, groups.rows}, h.options());
    float *push = write_ptr<float>(factors), *pull = push + groups.rows;
    for (int64_t r = 0; r < groups.rows; ++r) {
      const double weight = weights[begin + r];
      double total = 0;
      for (int64_t task = 0; task < tasks.count(); ++task) total += read_ptr<double>(sums)[task * groups.padded() + r];
      push[r] = static_cast<float>(weight / call.tau / total);
      pull[r] = static_cast<float>(-weight / call.tau);
      loss += weight * (std::log(total) + (1 - positive_cosine(groups, r)) / call.tau);
    }
    groups.weigh(push);
    run<BackwardScratch>(tasks, groups, [&](int64_t task, BackwardScratch& scratch) {
      float* key_grads = write_ptr<float>(tasks.within(task) ? e_grad : h_grad);
      float* grads = write_ptr<float>(scratch.grads);
      for (int64_t key = tasks.begin(task); key < tasks.end(task); key += kKeys) {
        const int64_t count = std::min(kKeys, tasks.end(task) - key), size = kKeys * groups.width;
        const bool in_place = count == kKeys && groups.depth == d;
        for (int64_t g = 0; g < groups.count; ++g) {
          product(kKeys, groups.depth, groups.width, {kept_of(task, key) + g * size, size}, groups.of(groups.pairs, g),
                  1, in_place || g > 0, in_place ? key_grads + key * d : grads);
        }
        if (in_place) continue;
        for (int64_t k = 0; k < count; ++k) {
          for (int64_t j = 0; j < d; ++j) key_grads[(key + k) * d + j] += grads[k * groups.depth + j];
        }
      }
    });
    add_anchor_gradients(call, groups, tasks, shares, push, pull, h_grad, e_grad);
  }
  return true;
}

}  // namespace mmssl
#else
namespace mmssl {

bool infonce_has_bfloat16() { return false; }
bool infonce_has_pieces() { return false; }
bool infonce_forward_by_pieces(const InfonceCall&, at::Tensor&, at::Tensor&) { return false; }
bool infonce_backward_by_pieces(const InfonceCall&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                at::Tensor&, at::Tensor&) {
  return false;
}
bool infonce_with_grad_by_pieces(const InfonceCall&, const double*, double&, at::Tensor&, at::Tensor&) { return false; }

}  // namespace mmssl
#endif
