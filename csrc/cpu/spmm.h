// spmm for the bindings that are made of it: propagate, lightgcn, bpr_loss.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace mmssl {

// One row-wise sum, in the terms of common/spmm_args.h. y, rows, base and total may be undefined.
struct SpmmCall {
  at::Tensor crow;                      // int64 [R + 1]
  at::Tensor col;                       // int32 or int64 [nnz]
  std::optional<at::Tensor> value;      // [nnz], any floating dtype
  std::optional<at::Tensor> row_scale;  // [R]
  std::optional<at::Tensor> col_scale;  // [C]
  at::Tensor x;                         // [C, d] float32, float64 or bfloat16
  at::Tensor y;                         // [R, d] contiguous, dtype of x
  at::Tensor rows;                      // int64 [R], distinct
  at::Tensor base;                      // [*, d], dtype of x
  at::Tensor total;                     // [*, d], dtype of x
  double factor = 1;
};

// Checks shapes, dtypes, offsets and columns (ValueError in the name of `op`), then runs over rows in parallel, a
// thread taking consecutive rows that hold as many entries as another's. The bits do not depend on the number of
// threads.
void run_spmm(const char* op, const SpmmCall& call);

// The matrix x, or a copy, with its columns side by side; rows may be any stride apart.
at::Tensor columns_adjacent(const at::Tensor& x);

}  // namespace mmssl
