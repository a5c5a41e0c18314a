// spmm on CUDA for the bindings that are made of it.
#pragma once

#include "common/spmm_call.h"

namespace mmssl::cuda {

// Checks shapes, dtypes and devices (ValueError in the name of `op`) and starts the kernels on the current stream. What
// crow, col and rows hold is checked on the device. A row without entries leaves `total` as it is where `rows` is
// given.
void run_spmm(const char* op, const SpmmCall& call);

}  // namespace mmssl::cuda
