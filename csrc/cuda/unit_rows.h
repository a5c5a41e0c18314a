// The launchers of unit_rows. All matrices are contiguous [n_rows, d]. A is float for bfloat16, else T.
#pragma once

#include <cstdint>

#include "common/bfloat16.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

// unit[r] = x[r] / ‖x[r]‖ and inverse[r] = 1 / ‖x[r]‖ (at most the largest finite value); both 0 for a zero row.
template <typename T, typename A>
void unit_rows_cuda(const T* x, int64_t n_rows, int64_t d, T* unit, A* inverse, cudaStream_t stream);

// x_grad[r] = inverse[r] (grad[r] − unit[r] <unit[r], grad[r]>), with unit[r] = x[r] inverse[r]; 0 where inverse is 0.
template <typename T, typename A>
void unit_rows_bwd_cuda(const T* grad, const T* x, const A* inverse, int64_t n_rows, int64_t d, T* x_grad,
                        cudaStream_t stream);

}  // namespace mmssl::cuda
