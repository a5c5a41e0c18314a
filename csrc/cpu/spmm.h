// spmm for the bindings that are made of it: propagate, lightgcn, bpr_loss.
#pragma once

#include "common/spmm_call.h"

namespace mmssl {

// Checks shapes, dtypes, offsets and columns (ValueError in the name of `op`), then runs over rows in parallel, a
// thread taking consecutive rows that hold as many entries as another's. The bits do not depend on the number of
// threads.
void run_spmm(const char* op, const SpmmCall& call);

}  // namespace mmssl
