// propagate and lightgcn on the CPU: sequences of the row-wise sums in spmm.cpp.
#include <torch/library.h>

#include "common/lightgcn.h"
#include "cpu/spmm.h"

TORCH_LIBRARY_IMPL(mmssl_fast, CPU, m) {
  m.impl("lightgcn", &mmssl::lightgcn_op<mmssl::run_spmm>);
  m.impl("propagate", &mmssl::propagate_op<mmssl::run_spmm>);
}
