// cosine_topk on the CPU: tiles of similarities that stay in L2, each taken into its rows' heaps before the next is
// made.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/csr.h"
#include "cpu/seen.h"
#include "cpu/tile.h"

#define MMSSL_KERNELS "cpu/isa/cosine_topk.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

// One tile: 64 x 1024 float32 similarities take 256 KiB. Every tile of a call has the same shape: the last ones overlap
// their neighbours and skip what is done, because a GEMM may round differently at a ragged edge.
constexpr int64_t kRows = 64;
constexpr int64_t kItems = 1024;
// Fewer rows than this go through other GEMM kernels, which do not treat all columns alike.
constexpr int64_t kLeastRows = 16;

at::Tensor at_least_rows(const at::Tensor& x, int64_t rows) {
  if (x.size(0) >= rows) return x;
  at::Tensor padded = at::zeros({rows, x.size(1)}, x.options());
  padded.narrow(0, 0, x.size(0)).copy_(x);
  return padded;
}

// Into how many parts the catalogue is cut so that few rows still make enough tasks. Never depends on the thread count.
int64_t item_parts(int64_t n_rows, int64_t n_items, int64_t k) {
  constexpr int64_t kTasks = 64;
  const int64_t row_tiles = (n_rows + kRows - 1) / kRows;
  const int64_t least_width = std::max<int64_t>(4 * kItems, 4 * k);
  return std::max<int64_t>(std::min(kTasks / row_tiles, n_items / least_width), 1);
}

template <typename T, typename Index>
void search(const at::Tensor& u, const at::Tensor& v, int64_t n_rows, int64_t k, const Seen& seen, at::Tensor& values,
            at::Tensor& items) {
  const int64_t n_items = v.size(0);
  const int64_t tile_rows = std::min(kRows, u.size(0)), tile_items = std::min(kItems, n_items);
  const int64_t row_tiles = (n_rows + kRows - 1) / kRows, item_tiles = (n_items + kItems - 1) / kItems;
  const int64_t parts = item_parts(n_rows, n_items, k), capacity = baseline::topk_capacity(k);
  const bool whole = parts == 1;
  const at::Tensor part_values = whole ? values : at::empty({n_rows, parts, k}, values.options());
  const at::Tensor part_items = whole ? items : at::empty({n_rows, parts, k}, items.options());
  T* best = write_ptr<T>(part_values);
  int64_t* best_items = write_ptr<int64_t>(part_items);
  const int64_t* crow = seen.offsets();
  const Index* col = seen.columns<Index>();

  for_tasks(row_tiles * parts, [&](int64_t begin, int64_t end) {
    at::Tensor scores = at::empty({tile_rows, tile_items}, u.options());
    T* tile = write_ptr<T>(scores);
    std::vector<int64_t> cursor(kRows), count(kRows);
    std::vector<T> bar(kRows);
    std::vector<baseline::topk_key_t<T>> keys(kRows * capacity);
    std::vector<int32_t> list_items(kRows * capacity);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % parts;
      const int64_t row = task / parts * kRows, row_end = std::min(row + kRows, n_rows);
      const int64_t row_start = std::min(row, u.size(0) - tile_rows);
      const at::Tensor anchors = rows_of(u, row_start, row_start + tile_rows);
      if (crow != nullptr) std::copy(crow + row, crow + row_end, cursor.begin());
      std::fill(count.begin(), count.end(), -1);
      for (int64_t t = item_tiles * part / parts; t < item_tiles * (part + 1) / parts; ++t) {
        const int64_t item = t * kItems, item_end = std::min(item + kItems, n_items);
        const int64_t item_start = std::min(item, n_items - tile_items);
        product_transposed(scores, anchors, rows_of(v, item_start, item_start + tile_items));
        MMSSL_DISPATCH(cosine_topk_scan, tile + (row - row_start) * tile_items + (item - item_start), row_end - row,
                       tile_items, item, item_end - item, crow == nullptr ? nullptr : crow + row, col, cursor.data(), k,
                       keys.data(), list_items.data(), count.data(), bar.data());
      }
      const int64_t place = (row * parts + part) * k;
      MMSSL_DISPATCH(cosine_topk_take, row_end - row, k, keys.data(), list_items.data(), count.data(), best + place,
                     best_items + place, parts * k);
    }
  });
  if (whole) return;
  at::parallel_for(0, n_rows, row_grain(n_rows, n_rows * parts * k), [&](int64_t begin, int64_t end) {
    MMSSL_DISPATCH(cosine_topk_merge, parts, k, best, best_items, write_ptr<T>(values), write_ptr<int64_t>(items),
                   begin, end);
  });
}

std::tuple<at::Tensor, at::Tensor> cosine_topk_cpu(const at::Tensor& u_in, const at::Tensor& v_in, int64_t k,
                                                   const std::optional<at::Tensor>& crow,
                                                   const std::optional<at::Tensor>& col) {
  const char* op = "cosine_topk";
  check_factors(op, u_in, v_in);
  MMSSL_CHECK(k >= 0, op, "k must not be negative, got ", k);
  const int64_t n_rows = u_in.size(0), n_items = v_in.size(0);
  MMSSL_CHECK(n_items <= std::numeric_limits<int32_t>::max(), op, "at most 2^31 - 1 items, got ", n_items);
  const Seen seen = read_seen(op, crow, col, n_rows, n_items);
  const at::ScalarType type = u_in.scalar_type(), wide = wide_type(type);
  const int64_t kept = std::min(k, n_items);
  if (n_rows == 0 || kept == 0) {
    return {at::full({n_rows, k}, -std::numeric_limits<double>::infinity(), u_in.options()),
            at::full({n_rows, k}, -1, u_in.options().dtype(at::kLong))};
  }
  const at::Tensor u = at_least_rows(u_in.to(wide).contiguous(), kLeastRows), v = v_in.to(wide).contiguous();
  at::Tensor values = at::empty({n_rows, kept}, u.options());
  at::Tensor items = at::empty({n_rows, kept}, u.options().dtype(at::kLong));
  with_wide_type(wide, [&](auto value) {
    with_index_type(op, seen.index_type(), [&](auto index) {
      search<decltype(value), decltype(index)>(u, v, n_rows, kept, seen, values, items);
    });
  });
  if (kept < k) {
    values = at::constant_pad_nd(values, {0, k - kept}, -std::numeric_limits<double>::infinity());
    items = at::constant_pad_nd(items, {0, k - kept}, -1);
  }
  return {values.to(type), items};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) { m.impl("cosine_topk", &mmssl::cosine_topk_cpu); }
