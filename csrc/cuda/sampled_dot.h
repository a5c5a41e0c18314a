// The launcher of sampled_dot.
#pragma once

#include <cstdint>

#include "common/bfloat16.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

template <typename T, typename Index>
struct SampledDotArgs {
  const int64_t* crow;  // [n_rows + 1], from 0
  const Index* col;     // [nnz]; entries from crow[n_rows] on are not read
  const T* u;           // [n_rows, d] contiguous
  const T* v;           // [n_cols, d] contiguous
  T* s;                 // [nnz]
  int64_t n_rows, n_cols, nnz, d;
};

// s[e] = u[row(e)] . v[col[e]], summed in float32 for bfloat16, and 0 from entry crow[n_rows] on.
template <typename T, typename Index>
void sampled_dot_cuda(const SampledDotArgs<T, Index>& args, cudaStream_t stream);

}  // namespace mmssl::cuda
