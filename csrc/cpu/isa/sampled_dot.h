// Kernels of sampled_dot over the rows [begin, end) of a CSR block. Included through common/each_isa.h: no include
// guard. T: float, double, BFloat16 (sums in float). Index: int32_t, int64_t. All arrays contiguous.
#include <cstdint>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

// s[e] = <u[row(e)], v[col[e]]>. Memory-bound: reads d values of v an entry and d of u a row.
template <typename T, typename Index>
void sampled_dot_fwd(const int64_t* crow,  // [B + 1]
                     const Index* col,     // [nnz]
                     const T* u,           // [B, d]
                     const T* v,           // [I, d]
                     int64_t d,
                     T* s,  // [nnz]
                     int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
