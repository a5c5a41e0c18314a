// csr_transpose on the CPU: a stable sort of the entries by column, serial (thousands of entries, for a backward pass).
#include "cpu/csr_transpose.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "cpu/csr.h"

namespace mmssl {
namespace {

// order[k] is the k-th entry in a stable sort by column. This version uses a table of all columns, if the table is not
// much larger than the number of entries.
template <typename Index>
void counting_order(const Index* col, int64_t nnz, int64_t n_cols, int64_t* order) {
  std::vector<int64_t> next(n_cols + 1);
  for (int64_t e = 0; e < nnz; ++e) ++next[col[e] + 1];
  for (int64_t c = 0; c < n_cols; ++c) next[c + 1] += next[c];
  for (int64_t e = 0; e < nnz; ++e) order[next[col[e]]++] = e;
}

// The same by a radix sort with digits of 11 bits. Its cost depends on n_cols only by the number of digits.
template <typename Index>
void radix_order(const Index* col, int64_t nnz, int64_t n_cols, int64_t* order) {
  constexpr int kBits = 11;
  constexpr int64_t kBuckets = int64_t{1} << kBits;
  std::vector<int64_t> other(nnz);
  int64_t *from = other.data(), *to = order;
  for (int64_t e = 0; e < nnz; ++e) to[e] = e;
  for (int shift = 0; shift < 63 && (n_cols - 1) >> shift > 0; shift += kBits) {
    std::swap(from, to);
    int64_t next[kBuckets + 1] = {};
    for (int64_t e = 0; e < nnz; ++e) ++next[((col[e] >> shift) & (kBuckets - 1)) + 1];
    for (int64_t b = 0; b < kBuckets; ++b) next[b + 1] += next[b];
    for (int64_t k = 0; k < nnz; ++k) to[next[(col[from[k]] >> shift) & (kBuckets - 1)]++] = from[k];
  }
  if (to != order) std::copy(to, to + nnz, order);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> csr_transpose(const char* op, const at::Tensor& crow,
                                                                         const at::Tensor& col, int64_t n_cols) {
  const int64_t n_rows = crow.numel() - 1, nnz = col.numel();
  check_csr(op, crow, col, n_rows, n_cols);
  at::Tensor order = at::empty({nnz}, at::kLong), t_row = at::empty({nnz}, col.options());
  at::Tensor cols, t_crow;
  with_index_type(op, col.scalar_type(), [&](auto index) {
    using Index = decltype(index);
    MMSSL_CHECK(n_rows <= std::numeric_limits<Index>::max(), op, n_rows, " rows do not fit the index dtype ",
                col.scalar_type());
    const int64_t* offset = read_ptr<int64_t>(crow);
    const Index* column = read_ptr<Index>(col);
    int64_t* sorted = write_ptr<int64_t>(order);
    if (n_cols <= 8 * nnz) {
      counting_order(column, nnz, n_cols, sorted);
    } else {
      radix_order(column, nnz, n_cols, sorted);
    }
    std::vector<Index> row_of(nnz);
    for (int64_t r = 0; r < n_rows; ++r) std::fill(row_of.begin() + offset[r], row_of.begin() + offset[r + 1], r);
    Index* row = write_ptr<Index>(t_row);
    int64_t distinct = 0;
    for (int64_t k = 0; k < nnz; ++k) {
      row[k] = row_of[sorted[k]];
      distinct += k == 0 || column[sorted[k]] != column[sorted[k - 1]];
    }
    cols = at::empty({distinct}, at::kLong);
    t_crow = at::empty({distinct + 1}, at::kLong);
    int64_t *name = write_ptr<int64_t>(cols), *start = write_ptr<int64_t>(t_crow), at = 0;
    for (int64_t k = 0; k < nnz; ++k) {
      if (k > 0 && column[sorted[k]] == column[sorted[k - 1]]) continue;
      name[at] = column[sorted[k]];
      start[at++] = k;
    }
    start[distinct] = nnz;
  });
  return {cols, t_crow, t_row, order};
}

namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> csr_transpose_cpu(const at::Tensor& crow,
                                                                             const at::Tensor& col, int64_t n_cols) {
  const char* op = "csr_transpose";
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() > 0, op, "crow must be [rows + 1], got ", crow.sizes());
  MMSSL_CHECK(n_cols >= 0, op, "n_cols must not be negative, got ", n_cols);
  return csr_transpose(op, crow, col, n_cols);
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) { m.impl("csr_transpose", &mmssl::csr_transpose_cpu); }
