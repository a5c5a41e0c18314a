// Kernels of sampled_dot for the rows [begin, end) of a CSR block. Included through common/each_isa.h, so there is no
// include guard. T is float, double or BFloat16 (sums in float). Index is int32_t or int64_t. All arrays are
// contiguous.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// s[e] = u[row(e)] . v[col[e]]. Limited by memory: reads d values of v per entry, and d values of u per row.
template <typename T, typename Index>
void sampled_dot_fwd(const int64_t* crow,  // [B + 1]
                     const Index* col,     // [nnz]
                     const T* u,           // [B, d]
                     const T* v,           // [I, d]
                     int64_t d,
                     T* s,  // [nnz]
                     int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
