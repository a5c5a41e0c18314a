// The launcher of spmm. common/spmm_args.h defines the arguments.
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

// The number of rows of d values that spmm_cuda needs for partial sums of long rows.
int64_t spmm_partial_rows(int64_t nnz);

// Computes the sums of SpmmArgs. partial is [spmm_partial_rows(nnz), d].
template <typename T, typename A, typename Index>
void spmm_cuda(const char* op, const SpmmArgs<T, A, Index>& args, const SpmmSizes& sizes, A* partial,
               cudaStream_t stream);

}  // namespace mmssl::cuda
