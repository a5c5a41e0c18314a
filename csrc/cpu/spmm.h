// spmm for the bindings that use it: propagate, lightgcn, bpr_loss and sampled_dot.
#pragma once

#include "common/spmm_call.h"

namespace mmssl {

// Checks shapes, dtypes, offsets and columns, and computes the rows in parallel. A task has consecutive rows, and all
// tasks have about the same number of entries. The result has the same bits for any number of threads. Errors name
// `op`.
void run_spmm(const char* op, const SpmmCall& call);

}  // namespace mmssl
