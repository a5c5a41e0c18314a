// Kernels of unit_rows for the rows [begin, end). Included through common/each_isa.h, so there is no include guard. T
// is float, double or BFloat16. A, the type of the inverse lengths, is float for BFloat16, else T. Limited by memory:
// every array is read or written once.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// unit = x / length and inverse = 1 / length, both 0 for a zero row. Correct for lengths in the whole range of T.
template <typename T, typename A>
void unit_rows_fwd(const T* x,  // [rows, d]
                   int64_t d,
                   T* unit,     // [rows, d]
                   A* inverse,  // [rows]
                   int64_t begin, int64_t end);

// x_grad = inverse (grad - unit (grad . unit)) with unit = inverse x.
template <typename T, typename A>
void unit_rows_bwd(const T* grad,     // [rows, d]
                   const T* x,        // [rows, d]
                   const A* inverse,  // [rows]
                   int64_t d,
                   T* x_grad,  // [rows, d]
                   int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
