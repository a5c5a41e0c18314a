// Kernels of unit_rows over the rows [begin, end). Included through common/each_isa.h: no include guard. T: float,
// double, BFloat16; A, the type of the inverse lengths: float for BFloat16, else T. Memory-bound: each array goes by
// once.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// unit = x / length, inverse = 1 / length; both 0 at a zero row. Right for lengths over the whole range of T.
template <typename T, typename A>
void unit_rows_fwd(const T* x,  // [rows, d]
                   int64_t d,
                   T* unit,     // [rows, d]
                   A* inverse,  // [rows]
                   int64_t begin, int64_t end);

// x_grad = inverse (grad - unit <grad, unit>) with unit = inverse x.
template <typename T, typename A>
void unit_rows_bwd(const T* grad,     // [rows, d]
                   const T* x,        // [rows, d]
                   const A* inverse,  // [rows]
                   int64_t d,
                   T* x_grad,  // [rows, d]
                   int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
