// The launcher of spmm's kernels; the arguments are those of common/spmm_args.h.
#pragma once

#include <cstdint>

#include "common/bfloat16.h"
#include "common/spmm_args.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

struct SpmmSizes {
  int64_t n_rows;  // R
  int64_t n_cols;  // C
  int64_t nnz;     // length of col; entries from crow[R] on are not read
  int64_t n_out;   // rows of total, if it is given
};

// Rows of d values that spmm_cuda needs to put partial sums of long rows into.
int64_t spmm_partial_rows(int64_t nnz);

// Sums as SpmmArgs says. partial: [spmm_partial_rows(nnz), d].
template <typename T, typename A, typename Index>
void spmm_cuda(const char* op, const SpmmArgs<T, A, Index>& args, const SpmmSizes& sizes, A* partial,
               cudaStream_t stream);

}  // namespace mmssl::cuda
