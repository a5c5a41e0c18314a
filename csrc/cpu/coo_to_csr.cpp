// coo_to_csr on the CPU: two counting sorts, serial (memory-bound, and about ten nanoseconds an entry).
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"

namespace mmssl {
namespace {

constexpr const char* kOp = "coo_to_csr";

// offset[r] becomes the number of ids below r, for r in [0, n]. Returns whether the ids ascend.
template <typename In>
bool count(const char* name, const In* ids, int64_t nnz, int64_t n, int64_t* offset) {
  std::fill(offset, offset + n + 1, 0);
  bool ascends = true;
  int64_t last = 0;
  for (int64_t e = 0; e < nnz; ++e) {
    const int64_t id = ids[e];
    MMSSL_CHECK(id >= 0 && id < n, kOp, name, "[", e, "] = ", id, " is outside [0, ", n, ")");
    ascends &= id >= last;
    last = id;
    ++offset[id + 1];
  }
  for (int64_t r = 0; r < n; ++r) offset[r + 1] += offset[r];
  return ascends;
}

// Sorts by row, which is a copy if the rows ascend, and then by column. Both sorts are stable. `next` has room for the
// larger number of rows or columns.
template <typename In, typename Out>
void sort(const In* row, const In* col, int64_t n_rows, int64_t n_cols,
          const int64_t* crow,    // [n_rows + 1]
          const int64_t* t_crow,  // [n_cols + 1]
          bool ascends, Out* next,
          Out* by_row,     // [nnz], the columns sorted by row
          Out* order,      // [nnz]
          Out* by_col,     // [nnz], the rows sorted by column
          Out* t_order) {  // [nnz]
  const int64_t nnz = crow[n_rows];
  if (ascends) {
    std::copy(col, col + nnz, by_row);
    std::iota(order, order + nnz, Out{0});
  } else {
    std::copy(crow, crow + n_rows, next);
    for (int64_t e = 0; e < nnz; ++e) {
      const Out place = next[row[e]]++;
      by_row[place] = col[e];
      order[place] = e;
    }
  }
  std::copy(t_crow, t_crow + n_cols, next);
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t k = crow[r]; k < crow[r + 1]; ++k) {
      const Out place = next[by_row[k]]++;
      by_col[place] = r;
      t_order[place] = order[k];
    }
  }
}

using Arranged = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Arranged coo_to_csr_cpu(const at::Tensor& row, const at::Tensor& col, int64_t n_rows, int64_t n_cols) {
  MMSSL_CHECK(row.dim() == 1 && row.sizes() == col.sizes() && row.scalar_type() == col.scalar_type(), kOp,
              "row and col must be [nnz] of the same dtype, got ", row.scalar_type(), " ", row.sizes(), " and ",
              col.scalar_type(), " ", col.sizes());
  MMSSL_CHECK(n_rows >= 0 && n_cols >= 0, kOp, "n_rows and n_cols must not be negative, got ", n_rows, " and ", n_cols);
  const at::Tensor rows = row.contiguous(), cols = col.contiguous();
  const int64_t nnz = row.numel(), most = std::numeric_limits<int32_t>::max();
  const at::ScalarType out = std::max({nnz, n_rows, n_cols}) <= most ? at::kInt : at::kLong;
  const at::Tensor crow = at::empty({n_rows + 1}, at::kLong), t_crow = at::empty({n_cols + 1}, at::kLong);
  const at::Tensor by_row = at::empty({nnz}, out), order = at::empty({nnz}, out);
  const at::Tensor by_col = at::empty({nnz}, out), t_order = at::empty({nnz}, out);
  with_index_type(kOp, row.scalar_type(), [&](auto in) {
    using In = decltype(in);
    const In *r = read_ptr<In>(rows), *c = read_ptr<In>(cols);
    const bool ascends = count("row", r, nnz, n_rows, write_ptr<int64_t>(crow));
    count("col", c, nnz, n_cols, write_ptr<int64_t>(t_crow));
    const at::Tensor next = at::empty({std::max(n_rows, n_cols)}, out);
    with_index_type(kOp, out, [&](auto index) {
      using Out = decltype(index);
      sort(r, c, n_rows, n_cols, read_ptr<int64_t>(crow), read_ptr<int64_t>(t_crow), ascends, write_ptr<Out>(next),
           write_ptr<Out>(by_row), write_ptr<Out>(order), write_ptr<Out>(by_col), write_ptr<Out>(t_order));
    });
  });
  return {crow, by_row, order, t_crow, by_col, t_order};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) { m.impl("coo_to_csr", &mmssl::coo_to_csr_cpu); }
