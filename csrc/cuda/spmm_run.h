// spmm on CUDA for the bindings that use it.
#pragma once

#include "common/spmm_call.h"

namespace mmssl::cuda {

// Checks shapes, dtypes and devices, and launches the kernels on the current stream. The values in crow, col and rows
// are checked on the device. If `rows` is given, a row without entries does not change `total`. Errors name `op`.
void run_spmm(const char* op, const SpmmCall& call);

}  // namespace mmssl::cuda
