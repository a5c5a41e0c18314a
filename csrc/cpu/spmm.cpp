// spmm and spmm_add_ on the CPU: checks, allocation, threads. The arithmetic is in isa/spmm.cpp.
#include "cpu/spmm.h"

#include <torch/library.h>

#include <vector>

#include "common/check.h"
#include "common/dispatch.h"
#include "common/isa.h"
#include "cpu/parallel.h"

#define MMSSL_KERNELS "cpu/isa/spmm.h"
#include "common/each_isa.h"

namespace mmssl {
namespace {

// The first row of task `task`. The tasks divide the rows such that each has the same number of rows plus entries. A
// binary search is enough, because crow[r] + r, the number of rows and entries before row r, is increasing.
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

// Checks that the offsets of the rows [begin, end) are non-decreasing and within nnz, and their columns within n_cols.
template <typename Index>
void check_entries(const char* op, const int64_t* crow, const Index* col, int64_t begin, int64_t end, int64_t nnz,
                   int64_t n_cols) {
  MMSSL_CHECK(crow[begin] >= 0 && crow[end] <= nnz, op, "the offsets in crow must be in [0, ", nnz, "], got ",
              crow[begin], " and ", crow[end]);
  for (int64_t r = begin; r < end; ++r) {
    MMSSL_CHECK(crow[r] <= crow[r + 1], op, "crow must not decrease, but falls from ", crow[r], " to ", crow[r + 1],
                " at row ", r);
  }
  if (MMSSL_DISPATCH(columns_in_range, col, crow[begin], crow[end], n_cols)) return;
  for (int64_t e = crow[begin]; e < crow[end]; ++e) {
    MMSSL_CHECK(col[e] >= 0 && col[e] < n_cols, op, "col[", e, "] = ", col[e], " is outside [0, ", n_cols, ")");
  }
}

// Checks that the rows with entries are distinct and within `size`. Ascending rows, which csr_transpose returns, need
// no table for that.
void check_rows(const char* op, const at::Tensor& rows, const at::Tensor& crow, int64_t size) {
  const int64_t *row = read_ptr<int64_t>(rows), *offset = read_ptr<int64_t>(crow);
  const int64_t n = rows.numel();
  bool ascending = true;
  for (int64_t r = 0, before = -1; r < n; ++r) {
    if (offset[r] == offset[r + 1]) continue;
    MMSSL_CHECK(row[r] >= 0 && row[r] < size, op, "rows[", r, "] = ", row[r], " is outside [0, ", size, ")");
    ascending = ascending && before < row[r];
    before = row[r];
  }
  if (ascending) return;
  std::vector<bool> taken(size);
  for (int64_t r = 0; r < n; ++r) {
    if (offset[r] == offset[r + 1]) continue;
    MMSSL_CHECK(!taken[row[r]], op, "rows must be distinct, but rows[", r, "] = ", row[r], " repeats an earlier row");
    taken[row[r]] = true;
  }
}

}  // namespace

void run_spmm(const char* op, const SpmmCall& call) {
  with_spmm_args(op, call, [&](const auto& args, const SpmmShape& shape) {
    const int64_t n_rows = shape.n_rows, n_cols = shape.n_cols, nnz = shape.nnz;
    if (n_rows == 0) return;
    const int64_t rows_and_entries = n_rows + nnz, work = rows_and_entries * std::max<int64_t>(args.d, 1);
    const int64_t chunk = work < kWorthThreads ? rows_and_entries : chunk_rows(rows_and_entries, work);
    const int64_t tasks = (rows_and_entries + chunk - 1) / chunk;
    // An in-place result must not be changed if an argument is invalid, so all entries are checked first. A new tensor
    // is discarded on an error, so every task can check its own entries, while they are in cache.
    const bool in_place = call.rows.defined();
    if (in_place) check_entries(op, args.crow, args.col, 0, n_rows, nnz, n_cols);
    const auto run = [&](int64_t task) {
      const int64_t begin = task_begin(args.crow, n_rows, nnz, task, tasks);
      const int64_t end = task_begin(args.crow, n_rows, nnz, task + 1, tasks);
      if (!in_place) check_entries(op, args.crow, args.col, begin, end, nnz, n_cols);
      MMSSL_DISPATCH(spmm_rows, args, begin, end);
    };
    if (tasks == 1) return run(0);
    in_region(0, tasks, 1, [&](ChunkQueue& queue) {
      for (int64_t task; queue.take(task);) run(task);
    });
  });
}

namespace {

void spmm_add_cpu(at::Tensor& out, const at::Tensor& rows, const at::Tensor& crow, const at::Tensor& col,
                  const std::optional<at::Tensor>& value, const at::Tensor& x) {
  const char* op = "spmm_add_";
  const SpmmCall call = spmm_add_call(op, out, rows, crow, col, value, x);
  check_rows(op, rows, crow, out.size(0));
  run_spmm(op, call);
}

}  // namespace
}  // namespace mmssl

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("spmm", &mmssl::spmm_op<mmssl::run_spmm>);
  m.impl("spmm_add_", &mmssl::spmm_add_cpu);
}
