// spmm and spmm_add_ on the CPU: checks, allocation, threads. The arithmetic is in isa/spmm.cpp.
#include "cpu/spmm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/isa.h"
#include "cpu/dispatch.h"

#define MMSSL_KERNELS "cpu/isa/spmm.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

constexpr int64_t kTask = 65536;  // values read that outweigh handing a task to a thread

// A factor as the kernel reads it: contiguous, in the dtype sums are formed in, or undefined.
at::Tensor factor_of(const char* op, const char* name, const std::optional<at::Tensor>& factor, int64_t size,
                     at::ScalarType type) {
  if (!factor.has_value() || !factor->defined()) return {};
  MMSSL_CHECK(factor->dim() == 1 && factor->size(0) == size, op, name, " must be [", size, "], got ", factor->sizes());
  MMSSL_CHECK(factor->is_floating_point(), op, name, " must be floating, got ", factor->scalar_type());
  return factor->to(type).contiguous();
}

template <typename A>
const A* optional_ptr(const at::Tensor& x) {
  return x.defined() ? read_ptr<A>(x) : nullptr;
}

void check_matrix(const char* op, const char* name, const at::Tensor& m, const at::Tensor& x) {
  MMSSL_CHECK(m.dim() == 2 && m.size(1) == x.size(1), op, name, " must be [rows, ", x.size(1), "], got ", m.sizes());
  MMSSL_CHECK(m.scalar_type() == x.scalar_type(), op, name, " is ", m.scalar_type(), ", x is ", x.scalar_type());
}

// The first row of task `task` of `tasks`: rows and entries before it are that share of all rows and entries.
int64_t task_begin(const int64_t* crow, int64_t n_rows, int64_t nnz, int64_t task, int64_t tasks) {
  if (task == 0 || task == tasks) return task == 0 ? 0 : n_rows;
  const int64_t target = (n_rows + nnz) / tasks * task + (n_rows + nnz) % tasks * task / tasks;
  int64_t low = 0, high = n_rows;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (crow[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Offsets of the rows [begin, end) never fall and stay within nnz; their columns are within n_cols.
template <typename Index>
void check_entries(const char* op, const int64_t* crow, const Index* col, int64_t begin, int64_t end, int64_t nnz,
                   int64_t n_cols) {
  MMSSL_CHECK(crow[begin] >= 0 && crow[end] <= nnz, op, "crow holds ", crow[begin], " and ", crow[end],
              ", offsets must be from 0 to nnz = ", nnz);
  for (int64_t r = begin; r < end; ++r) {
    MMSSL_CHECK(crow[r] <= crow[r + 1], op, "crow falls from ", crow[r], " to ", crow[r + 1], " at row ", r);
  }
  if (MMSSL_DISPATCH(columns_in_range, col, crow[begin], crow[end], n_cols)) return;
  for (int64_t e = crow[begin]; e < crow[end]; ++e) {
    MMSSL_CHECK(col[e] >= 0 && col[e] < n_cols, op, "col[", e, "] = ", col[e], " is outside the ", n_cols,
                " rows of x");
  }
}

// rows [n], all distinct and within `size`: in ascending order, which is what csr_transpose gives, without a table.
void check_rows(const char* op, const at::Tensor& rows, int64_t n, int64_t size) {
  MMSSL_CHECK(rows.scalar_type() == at::kLong && rows.dim() == 1 && rows.size(0) == n && rows.is_contiguous(), op,
              "rows must be contiguous int64 [", n, "], got ", rows.scalar_type(), " ", rows.sizes());
  const int64_t* row = read_ptr<int64_t>(rows);
  bool ascending = true;
  for (int64_t r = 0; r < n; ++r) {
    MMSSL_CHECK(row[r] >= 0 && row[r] < size, op, "rows[", r, "] = ", row[r], " is outside the ", size, " rows of out");
    ascending = ascending && (r == 0 || row[r - 1] < row[r]);
  }
  if (ascending) return;
  std::vector<bool> taken(size);
  for (int64_t r = 0; r < n; ++r) {
    MMSSL_CHECK(!taken[row[r]], op, "rows must be distinct, rows[", r, "] = ", row[r], " occurs again");
    taken[row[r]] = true;
  }
}

}  // namespace

at::Tensor columns_adjacent(const at::Tensor& x) { return x.size(1) <= 1 || x.stride(1) == 1 ? x : x.contiguous(); }

void run_spmm(const char* op, const SpmmCall& call) {
  const at::Tensor &crow = call.crow, &col = call.col;
  MMSSL_CHECK(crow.scalar_type() == at::kLong && crow.dim() == 1 && crow.numel() > 0 && crow.is_contiguous(), op,
              "crow must be contiguous int64 [rows + 1], got ", crow.scalar_type(), " ", crow.sizes());
  MMSSL_CHECK(col.dim() == 1 && col.is_contiguous(), op, "col must be contiguous [nnz], got ", col.sizes());
  MMSSL_CHECK(call.x.dim() == 2, op, "x must be [rows, d], got ", call.x.sizes());
  const int64_t n_rows = crow.numel() - 1, nnz = col.numel(), n_cols = call.x.size(0), d = call.x.size(1);
  const bool bfloat16 = call.x.scalar_type() == at::kBFloat16;
  const at::ScalarType sums = bfloat16 ? at::kFloat : call.x.scalar_type();
  const at::Tensor value = factor_of(op, "value", call.value, nnz, sums);
  const at::Tensor row_scale = factor_of(op, "row_scale", call.row_scale, n_rows, sums);
  const at::Tensor col_scale = factor_of(op, "col_scale", call.col_scale, n_cols, sums);
  const at::Tensor x = columns_adjacent(call.x);
  const at::Tensor base = call.base.defined() ? columns_adjacent(call.base) : call.base;
  if (call.total.defined()) {
    check_matrix(op, "base", base, x);
    check_matrix(op, "total", call.total, x);
  }

  with_value_type(op, x.scalar_type(), [&](auto element) {
    with_index_type(op, col.scalar_type(), [&](auto index) {
      using T = decltype(element);
      using A = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;
      using Index = decltype(index);
      const SpmmArgs<T, A, Index> args{
          read_ptr<int64_t>(crow),
          read_ptr<Index>(col),
          optional_ptr<A>(value),
          optional_ptr<A>(row_scale),
          optional_ptr<A>(col_scale),
          read_ptr<T>(x),
          x.stride(0),
          d,
          call.y.defined() ? write_ptr<T>(call.y) : nullptr,
          optional_ptr<int64_t>(call.rows),
          optional_ptr<T>(base),
          base.defined() ? base.stride(0) : 0,
          call.total.defined() ? write_ptr<T>(call.total) : nullptr,
          call.total.defined() ? call.total.stride(0) : 0,
          static_cast<A>(call.factor),
      };
      if (n_rows == 0) return;
      const int64_t useful = (nnz + n_rows) / (kTask / std::max<int64_t>(d, 1) + 1) + 1;
      const int64_t tasks = std::min<int64_t>(at::get_num_threads(), useful);
      // What goes into memory that others see is checked whole before any of it is written.
      const bool in_place = call.rows.defined();
      if (in_place) check_entries(op, args.crow, args.col, 0, n_rows, nnz, n_cols);
      at::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
        const int64_t begin = task_begin(args.crow, n_rows, nnz, first, tasks);
        const int64_t end = task_begin(args.crow, n_rows, nnz, last, tasks);
        if (!in_place) check_entries(op, args.crow, args.col, begin, end, nnz, n_cols);
        MMSSL_DISPATCH(spmm_rows, args, begin, end);
      });
    });
  });
}

namespace {

at::Tensor spmm_cpu(const at::Tensor& crow, const at::Tensor& col, const std::optional<at::Tensor>& value,
                    const std::optional<at::Tensor>& row_scale, const std::optional<at::Tensor>& col_scale,
                    const at::Tensor& x) {
  MMSSL_CHECK(crow.dim() == 1 && crow.numel() > 0 && x.dim() == 2, "spmm",
              "crow must be [rows + 1] and x [rows, d], got ", crow.sizes(), " and ", x.sizes());
  SpmmCall call{crow, col, value, row_scale, col_scale, x};
  call.y = at::empty({crow.numel() - 1, x.size(1)}, x.options());
  run_spmm("spmm", call);
  return call.y;
}

void spmm_add_cpu(at::Tensor& out, const at::Tensor& rows, const at::Tensor& crow, const at::Tensor& col,
                  const std::optional<at::Tensor>& value, const at::Tensor& x) {
  const char* op = "spmm_add_";
  MMSSL_CHECK(
      out.dim() == 2 && (out.size(1) <= 1 || out.stride(1) == 1) && (out.size(0) <= 1 || out.stride(0) >= out.size(1)),
      op, "out must be a matrix with adjacent columns and rows that do not overlap, got ", out.sizes(),
      " with strides ", out.strides());
  check_rows(op, rows, crow.numel() - 1, out.size(0));
  SpmmCall call{crow, col, value, {}, {}, x};
  call.rows = rows;
  call.base = out;
  call.total = out;
  run_spmm(op, call);
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("spmm", &mmssl::spmm_cpu);
  m.impl("spmm_add_", &mmssl::spmm_add_cpu);
}
