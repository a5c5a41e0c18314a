// propagate and lightgcn on CUDA: sequences of the row-wise sums in spmm.cu. The degree scales are their factors, and
// their epilogue computes the mean over the layers.
#include "common/lightgcn.h"
#include "cuda/library.h"
#include "cuda/spmm_run.h"

MMSSL_CUDA_LIBRARY(m) {
  m.impl("lightgcn", &mmssl::lightgcn_op<mmssl::cuda::run_spmm>);
  m.impl("propagate", &mmssl::propagate_op<mmssl::cuda::run_spmm>);
}
