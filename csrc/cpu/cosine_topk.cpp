// cosine_topk on the CPU: divides the rows into blocks and the catalogue into parts, and merges the parts.
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/factors.h"
#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/seen.h"

#define MMSSL_KERNELS "cpu/isa/cosine_topk.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

// Rows per task, a multiple of the panel size. Long lists have fewer rows, so that the lists of a task stay in cache.
template <typename T>
int64_t task_rows(int64_t n_rows, int64_t capacity) {
  constexpr int64_t kMost = 128, kListEntries = int64_t{1} << 17, kPanel = baseline::topk_panel_rows<T>(1);
  const int64_t fit = kListEntries / capacity / kPanel * kPanel;
  return std::min(n_rows, std::clamp(fit, kPanel, kMost));
}

at::Tensor at_least_rows(const at::Tensor& x, int64_t rows) {
  if (x.size(0) >= rows) return x;
  at::Tensor padded = at::zeros({rows, x.size(1)}, x.options());
  padded.narrow(0, 0, x.size(0)).copy_(x);
  return padded;
}

bool worth_threads(int64_t n_rows, int64_t n_items, int64_t d) {
  return n_rows * n_items >= kWorthThreads / std::max<int64_t>(d, 1);
}

// The number of parts of the catalogue, so that few rows still give enough tasks. It may depend on the number of
// threads, because a similarity has the same bits in any part, and merging any parts gives the same k best items.
int64_t item_parts(int64_t row_tiles, int64_t n_rows, int64_t n_items, int64_t d, int64_t k) {
  const int64_t threads = worth_threads(n_rows, n_items, d) ? at::get_num_threads() : 1;
  const int64_t tasks = threads > 1 ? 4 * threads : 1;
  const int64_t least_width = std::max<int64_t>(4 * baseline::kTopkFirst, 4 * k);
  return std::max<int64_t>(std::min((tasks + row_tiles - 1) / row_tiles, n_items / least_width), 1);
}

// v may have more rows than there are items.
template <typename T, typename Index>
void search(const at::Tensor& u, const at::Tensor& v, int64_t n_items, int64_t k, const Seen& seen, at::Tensor& values,
            at::Tensor& items) {
  const int64_t n_rows = u.size(0), d = u.size(1), capacity = baseline::topk_capacity(k, n_items);
  const int64_t rows_a_task = task_rows<T>(n_rows, capacity), row_tiles = (n_rows + rows_a_task - 1) / rows_a_task;
  const int64_t parts = item_parts(row_tiles, n_rows, n_items, d, k);
  const bool whole = parts == 1;
  const at::Tensor part_values = whole ? values : at::empty({n_rows, parts, k}, values.options());
  const at::Tensor part_items = whole ? items : at::empty({n_rows, parts, k}, items.options());
  T* best = write_ptr<T>(part_values);
  int64_t* best_items = write_ptr<int64_t>(part_items);
  const int64_t* crow = seen.offsets();
  const Index* col = seen.columns<Index>();

  const auto search_tasks = [&](ChunkQueue& tasks) {
    const int64_t padded = baseline::topk_panel_rows<T>(rows_a_task);
    std::vector<T> packed(padded * d), scores(baseline::topk_panel_rows<T>(1) * baseline::kTopkFirst), bar(padded);
    std::vector<int64_t> cursor(padded), count(padded);
    std::vector<baseline::topk_key_t<T>> keys(padded * capacity), other_keys(capacity);
    std::vector<int32_t> list_items(padded * capacity), other_items(capacity);
    for (int64_t task; tasks.take(task);) {
      const int64_t part = task % parts;
      const int64_t row = task / parts * rows_a_task, rows = std::min(rows_a_task, n_rows - row);
      MMSSL_DISPATCH(cosine_topk_search, read_ptr<T>(u) + row * d, read_ptr<T>(v), rows, d, n_items * part / parts,
                     n_items * (part + 1) / parts, crow == nullptr ? nullptr : crow + row, col, k, capacity,
                     packed.data(), scores.data(), cursor.data(), keys.data(), list_items.data(), count.data(),
                     bar.data());
      const int64_t place = (row * parts + part) * k;
      MMSSL_DISPATCH(cosine_topk_take, rows, k, capacity, keys.data(), list_items.data(), count.data(),
                     other_keys.data(), other_items.data(), best + place, best_items + place, parts * k);
    }
  };
  if (worth_threads(n_rows, n_items, d)) {
    in_region(0, row_tiles * parts, 1, search_tasks);
  } else {
    ChunkQueue tasks(0, row_tiles * parts, 1);
    search_tasks(tasks);
  }
  if (whole) return;
  for_rows(0, n_rows, n_rows * parts * k, [&](int64_t begin, int64_t end) {
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
  MMSSL_CHECK(n_items <= std::numeric_limits<int32_t>::max(), op, "there may be at most 2^31 - 1 items, got ", n_items);
  const Seen seen = read_seen(op, crow, col, n_rows, n_items);
  const at::ScalarType type = u_in.scalar_type(), wide = wide_type(type);
  const int64_t kept = std::min(k, n_items);
  if (n_rows == 0 || kept == 0) {
    return {at::full({n_rows, k}, -std::numeric_limits<double>::infinity(), u_in.options()),
            at::full({n_rows, k}, -1, u_in.options().dtype(at::kLong))};
  }
  const at::Tensor u = u_in.to(wide).contiguous();
  const at::Tensor v = at_least_rows(v_in.to(wide).contiguous(), baseline::kTopkItems);
  at::Tensor values = at::empty({n_rows, kept}, u.options());
  at::Tensor items = at::empty({n_rows, kept}, u.options().dtype(at::kLong));
  with_wide_type(wide, [&](auto value) {
    with_index_type(op, seen.index_type(), [&](auto index) {
      search<decltype(value), decltype(index)>(u, v, n_items, kept, seen, values, items);
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
