// cosine_block on the CPU. Forward computes U Vᵀ in tiles; every tile is masked, and its squares are added, while it is
// in cache. Backward reads every tile of the gradient once and uses it for both products.
//
// A step computes three products of 2 B I d operations, and reads or writes the block and its gradient a few times.
// Memory moves 4 bytes per 2 d operations, so that for d = 64 neither memory nor arithmetic waits long for the other.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/seen.h"
#include "cpu/tile.h"

#define MMSSL_KERNELS "cpu/isa/cosine_block.h"
#include "common/each_isa.h"
#define MMSSL_KERNELS "cpu/isa/shares.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

constexpr int64_t kRows = 64, kItems = 2048;          // tile of the forward pass: 512 KiB in float32
constexpr int64_t kGradRows = 256, kGradItems = 256;  // tile of the backward pass
constexpr int64_t kShareRows = 1024;                  // rows whose partial gradients of u are in memory at once

template <typename F>
void with_types(const char* op, at::ScalarType type, const Seen& seen, F&& f) {
  with_value_type(op, type,
                  [&](auto value) { with_index_type(op, seen.index_type(), [&](auto index) { f(value, index); }); });
}

template <typename T, typename Index>
void forward(const at::Tensor& u, const at::Tensor& v, const Seen& seen, bool row_l2, at::Tensor& block,
             at::Tensor& inverse) {
  using A = wide_t<T>;
  const int64_t n_rows = u.size(0), n_items = v.size(0);
  const bool in_place = std::is_same_v<T, A>;
  for_tasks((n_rows + kRows - 1) / kRows, [&](ChunkQueue& tasks) {
    const at::Tensor scratch = in_place ? at::Tensor() : at::empty({kRows * kItems}, u.options());
    std::vector<double> square(kRows);
    for (int64_t task; tasks.take(task);) {
      const int64_t row = task * kRows, row_end = std::min(row + kRows, n_rows);
      const int64_t* crow = seen.crow.defined() ? seen.offsets() + row : nullptr;
      std::fill(square.begin(), square.end(), 0);
      for (int64_t item = 0; item < n_items; item += kItems) {
        const int64_t item_end = std::min(item + kItems, n_items), width = item_end - item;
        at::Tensor products =
            in_place ? rows_of(block, row, row_end).narrow(1, item, width) : matrix_in(scratch, row_end - row, width);
        product_transposed(products, rows_of(u, row, row_end), rows_of(v, item, item_end));
        MMSSL_DISPATCH(cosine_block_place, write_ptr<A>(products), in_place ? n_items : width, row_end - row, item,
                       width, crow, seen.columns<Index>(), write_ptr<T>(block) + row * n_items + item, n_items,
                       row_l2 ? square.data() : nullptr);
      }
      if (!row_l2) continue;
      MMSSL_DISPATCH(cosine_block_scale, write_ptr<T>(block) + row * n_items, row_end - row, n_items, square.data(),
                     write_ptr<A>(inverse) + row);
    }
  });
}

std::tuple<at::Tensor, at::Tensor> cosine_block_cpu(const at::Tensor& u_in, const at::Tensor& v_in,
                                                    const std::optional<at::Tensor>& crow,
                                                    const std::optional<at::Tensor>& col, bool row_l2) {
  const char* op = "cosine_block";
  check_factors(op, u_in, v_in);
  const at::ScalarType type = u_in.scalar_type(), wide = wide_type(type);
  const Seen seen = read_seen(op, crow, col, u_in.size(0), v_in.size(0));
  const at::Tensor u = u_in.to(wide).contiguous(), v = v_in.to(wide).contiguous();
  at::Tensor block = at::empty({u.size(0), v.size(0)}, u_in.options());
  at::Tensor inverse = row_l2 ? at::zeros({u.size(0)}, u.options()) : at::empty({0}, u.options());
  with_types(op, type, seen, [&](auto value, auto index) {
    forward<decltype(value), decltype(index)>(u, v, seen, row_l2, block, inverse);
  });
  return {block, inverse};
}

struct Gradient {
  at::Tensor grad, block, inverse;  // gradient of the block; block and inverse row lengths, or undefined
  at::Tensor along;                 // float64 [B]: the inner product of grad and block in every row
};

template <typename T, typename Index>
void backward(const Gradient& g, const at::Tensor& u, const at::Tensor& v, const Seen& seen, at::Tensor& u_grad,
              at::Tensor& v_grad) {
  using A = wide_t<T>;
  const int64_t n_rows = u.size(0), n_items = v.size(0), d = u.size(1);
  const bool scaled = g.inverse.defined();
  if (scaled) {
    for_rows(0, n_rows, n_rows * n_items, [&](int64_t begin, int64_t end) {
      MMSSL_DISPATCH(cosine_block_along, read_ptr<T>(g.grad), read_ptr<T>(g.block), n_items, write_ptr<double>(g.along),
                     begin, end);
    });
  }
  const Chunks chunks(n_items, kGradItems);
  const at::Tensor shares =
      at::empty({u_grad.defined() ? chunks.count * std::min(kShareRows, n_rows) : 0, d}, u.options());
  for (int64_t begin = 0; begin < n_rows; begin += kShareRows) {
    const int64_t end = std::min(begin + kShareRows, n_rows);
    for_tasks(chunks.count, [&](ChunkQueue& tasks) {
      const at::Tensor scratch = at::empty({kGradRows * kGradItems}, u.options());
      for (int64_t task; tasks.take(task);) {
        at::Tensor share =
            u_grad.defined() ? rows_of(shares, task * (end - begin), (task + 1) * (end - begin)) : u_grad;
        if (share.defined()) share.zero_();
        for (int64_t item = chunks.begin(task); item < chunks.end(task); item += kGradItems) {
          const int64_t item_end = std::min(item + kGradItems, chunks.end(task)), width = item_end - item;
          for (int64_t row = begin; row < end; row += kGradRows) {
            const int64_t row_end = std::min(row + kGradRows, end), place = row * n_items + item;
            at::Tensor products = matrix_in(scratch, row_end - row, width);
            MMSSL_DISPATCH(cosine_block_grad, read_ptr<T>(g.grad) + place,
                           scaled ? read_ptr<T>(g.block) + place : nullptr, n_items, row_end - row, item, width,
                           seen.crow.defined() ? seen.offsets() + row : nullptr, seen.columns<Index>(),
                           scaled ? read_ptr<A>(g.inverse) + row : nullptr,
                           scaled ? read_ptr<double>(g.along) + row : nullptr, write_ptr<A>(products));
            if (share.defined()) {
              at::Tensor u_share = rows_of(share, row - begin, row_end - begin);
              add_product(u_share, products, rows_of(v, item, item_end));
            }
            if (v_grad.defined()) {
              at::Tensor v_share = rows_of(v_grad, item, item_end);
              add_product(v_share, products.t(), rows_of(u, row, row_end));
            }
          }
        }
      }
    });
    if (!u_grad.defined()) continue;
    for_rows(0, end - begin, (end - begin) * d * chunks.count, [&](int64_t row, int64_t row_end) {
      MMSSL_DISPATCH(add_shares, read_ptr<A>(shares), chunks.count, end - begin, d, write_ptr<A>(u_grad) + begin * d,
                     row, row_end);
    });
  }
}

std::tuple<at::Tensor, at::Tensor> cosine_block_bwd_cpu(const at::Tensor& grad, const at::Tensor& u_in,
                                                        const at::Tensor& v_in, const std::optional<at::Tensor>& crow,
                                                        const std::optional<at::Tensor>& col,
                                                        const std::optional<at::Tensor>& block,
                                                        const std::optional<at::Tensor>& inverse, bool need_u,
                                                        bool need_v) {
  const char* op = "cosine_block_bwd";
  check_factors(op, u_in, v_in);
  const at::ScalarType type = u_in.scalar_type(), wide = wide_type(type);
  const int64_t n_rows = u_in.size(0), n_items = v_in.size(0);
  const auto check_block = [&](const char* name, const at::Tensor& x) {
    MMSSL_CHECK(x.dim() == 2 && x.size(0) == n_rows && x.size(1) == n_items && x.scalar_type() == type, op, name,
                " must be [", n_rows, ", ", n_items, "] of ", type, ", got ", x.sizes(), " of ", x.scalar_type());
  };
  check_block("grad", grad);
  MMSSL_CHECK(block.has_value() == inverse.has_value(), op, "pass both or neither of block and inverse");
  Gradient g{grad.contiguous()};
  if (block.has_value()) {
    check_block("block", *block);
    MMSSL_CHECK(inverse->dim() == 1 && inverse->size(0) == n_rows && inverse->scalar_type() == wide, op,
                "inverse must be [", n_rows, "] of ", wide, ", got ", inverse->sizes(), " of ", inverse->scalar_type());
    g.block = block->contiguous();
    g.inverse = inverse->contiguous();
    g.along = at::empty({n_rows}, grad.options().dtype(at::kDouble));
  }
  const Seen seen = read_seen(op, crow, col, n_rows, n_items);
  const at::Tensor u = u_in.to(wide).contiguous(), v = v_in.to(wide).contiguous();
  at::Tensor u_grad = need_u ? at::zeros(u.sizes(), u.options()) : at::Tensor();
  at::Tensor v_grad = need_v ? at::zeros(v.sizes(), v.options()) : at::Tensor();
  with_types(op, type, seen, [&](auto value, auto index) {
    backward<decltype(value), decltype(index)>(g, u, v, seen, u_grad, v_grad);
  });
  const at::Tensor none = at::empty({0}, u_in.options());
  return {need_u ? u_grad.to(type) : none, need_v ? v_grad.to(type) : none.clone()};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("cosine_block", &mmssl::cosine_block_cpu);
  m.impl("cosine_block_bwd", &mmssl::cosine_block_bwd_cpu);
}
