// The arguments of a kernel that multiplies sparse rows by a matrix, for every instruction set.
#pragma once

#include <cstdint>

namespace mmssl {

// s[r] = row_scale[r] * sum over e in [crow[r], crow[r + 1]) of value[e] * col_scale[col[e]] * x[col[e]], then
//   y[r] = s[r]                                   if y is given,
//   total[rows[r]] = (base[rows[r]] + s[r]) * factor   if total is given (rows == nullptr: rows[r] = r; base may be
//   total). With from_base, the sum over the entries starts from base[rows[r]], and total[rows[r]] is that sum; there
//   is neither row_scale nor factor. CUDA adds base at the end.
// If rows is given, a row without entries is skipped: nothing is written for it, and its rows[r] is not read. A factor
// that is nullptr counts as 1. T is the type of the dense arrays, A the type of sums, and Index is int32_t or int64_t.
template <typename T, typename A, typename Index>
struct SpmmArgs {
  const int64_t* crow;  // [R + 1]
  const Index* col;     // [nnz], each in [0, C)
  const A* value;       // [nnz] or nullptr
  const A* row_scale;   // [R] or nullptr
  const A* col_scale;   // [C] or nullptr
  const T* x;           // [C, d], rows x_stride apart
  int64_t x_stride;
  int64_t d;
  T* y;                 // [R, d] contiguous, or nullptr
  const int64_t* rows;  // [R], distinct for rows with entries, or nullptr
  const T* base;        // [*, d], rows base_stride apart
  int64_t base_stride;
  T* total;  // [*, d], rows total_stride apart, or nullptr
  int64_t total_stride;
  A factor;
  bool from_base;
};

}  // namespace mmssl
