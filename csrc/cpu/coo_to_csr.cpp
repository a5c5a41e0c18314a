// coo_to_csr and coo_to_csr_values on the CPU.
#include "cpu/coo_to_csr.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "common/check.h"
#include "common/dispatch.h"

namespace mmssl {
namespace {

using Arranged = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// The offsets of both sides, and what else is needed for sorting.
struct Sides {
  at::Tensor crow, t_crow, next;
  bool ascends;
  at::ScalarType out;
};

template <typename In>
bool count(const char* op, const char* name, const In* ids, int64_t nnz, int64_t n, const at::Tensor& offset) {
  const Counted counted = count_ids(ids, nnz, n, write_ptr<int64_t>(offset));
  MMSSL_CHECK(counted.bad < 0, op, name, "[", counted.bad, "] = ", ids[counted.bad], " is outside [0, ", n, ")");
  return counted.ascends;
}

Sides count_both(const char* op, const at::Tensor& row, const at::Tensor& col, int64_t n_rows, int64_t n_cols) {
  const int64_t nnz = row.numel(), most = std::numeric_limits<int32_t>::max();
  Sides sides{at::empty({n_rows + 1}, at::kLong), at::empty({n_cols + 1}, at::kLong), {}, true, at::kLong};
  if (std::max({nnz, n_rows, n_cols}) <= most) sides.out = at::kInt;
  with_index_type(op, row.scalar_type(), [&](auto in) {
    using In = decltype(in);
    sides.ascends = count(op, "row", read_ptr<In>(row), nnz, n_rows, sides.crow);
    count(op, "col", read_ptr<In>(col), nnz, n_cols, sides.t_crow);
  });
  sides.next = at::empty({std::max(n_rows, n_cols)}, sides.out);
  return sides;
}

void check_coordinates(const char* op, const at::Tensor& row, const at::Tensor& col, int64_t n_rows, int64_t n_cols) {
  MMSSL_CHECK(row.dim() == 1 && row.sizes() == col.sizes() && row.scalar_type() == col.scalar_type(), op,
              "row and col must be [nnz] of the same dtype, got ", row.scalar_type(), " ", row.sizes(), " and ",
              col.scalar_type(), " ", col.sizes());
  MMSSL_CHECK(n_rows >= 0 && n_cols >= 0, op, "n_rows and n_cols must not be negative, got ", n_rows, " and ", n_cols);
}

Arranged coo_to_csr_cpu(const at::Tensor& row, const at::Tensor& col, int64_t n_rows, int64_t n_cols) {
  const char* op = "coo_to_csr";
  check_coordinates(op, row, col, n_rows, n_cols);
  const at::Tensor rows = row.contiguous(), cols = col.contiguous();
  const int64_t nnz = row.numel();
  const Sides sides = count_both(op, rows, cols, n_rows, n_cols);
  const at::Tensor by_row = at::empty({nnz}, sides.out), order = at::empty({nnz}, sides.out);
  const at::Tensor by_col = at::empty({nnz}, sides.out), t_order = at::empty({nnz}, sides.out);
  with_index_type(op, rows.scalar_type(), [&](auto in) {
    using In = decltype(in);
    with_index_type(op, sides.out, [&](auto index) {
      using Out = decltype(index);
      sort_both(
          read_ptr<In>(rows), read_ptr<In>(cols), [](Out e) { return e; }, n_rows, n_cols,
          read_ptr<int64_t>(sides.crow), read_ptr<int64_t>(sides.t_crow), sides.ascends, write_ptr<Out>(sides.next),
          write_ptr<Out>(by_row), write_ptr<Out>(order), write_ptr<Out>(by_col), write_ptr<Out>(t_order));
    });
  });
  return {sides.crow, by_row, order, sides.t_crow, by_col, t_order};
}

Arranged coo_to_csr_values_cpu(const at::Tensor& row, const at::Tensor& col, const at::Tensor& value, int64_t n_rows,
                               int64_t n_cols) {
  const char* op = "coo_to_csr_values";
  check_coordinates(op, row, col, n_rows, n_cols);
  MMSSL_CHECK(value.sizes() == row.sizes(), op, "value must be [nnz] as row is, ", row.sizes(), ", got ",
              value.sizes());
  const at::Tensor rows = row.contiguous(), cols = col.contiguous(), values = value.contiguous();
  const int64_t nnz = row.numel();
  const Sides sides = count_both(op, rows, cols, n_rows, n_cols);
  const at::Tensor by_row = at::empty({nnz}, sides.out), sorted = at::empty({nnz}, value.scalar_type());
  const at::Tensor by_col = at::empty({nnz}, sides.out), t_sorted = at::empty({nnz}, value.scalar_type());
  with_index_type(op, rows.scalar_type(), [&](auto in) {
    using In = decltype(in);
    with_index_type(op, sides.out, [&](auto index) {
      using Out = decltype(index);
      with_value_type(op, value.scalar_type(), [&](auto number) {
        using T = decltype(number);
        const T* of_entry = read_ptr<T>(values);
        sort_both(
            read_ptr<In>(rows), read_ptr<In>(cols), [of_entry](Out e) { return of_entry[e]; }, n_rows, n_cols,
            read_ptr<int64_t>(sides.crow), read_ptr<int64_t>(sides.t_crow), sides.ascends, write_ptr<Out>(sides.next),
            write_ptr<Out>(by_row), write_ptr<T>(sorted), write_ptr<Out>(by_col), write_ptr<T>(t_sorted));
      });
    });
  });
  return {sides.crow, by_row, sorted, sides.t_crow, by_col, t_sorted};
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("coo_to_csr", &mmssl::coo_to_csr_cpu);
  m.impl("coo_to_csr_values", &mmssl::coo_to_csr_values_cpu);
}
