// Kernels of spmm for the rows [begin, end) of a CSR block. Included through common/each_isa.h, so there is no include
// guard. T is float, double or BFloat16 (sums in A = float). Index is int32_t or int64_t.
#include <cstdint>

#include "common/bfloat16.h"
#include "common/spmm_args.h"

namespace mmssl::MMSSL_ISA {

// The sum that common/spmm_args.h defines, in the order of the entries, so that the bits do not depend on how the rows
// are divided. Limited by memory: d values of x per entry, and d values of y (and of base and total) per row. x is read
// from cache if it fits.
template <typename T, typename A, typename Index>
void spmm_rows(const SpmmArgs<T, A, Index>& args, int64_t begin, int64_t end);

// Whether all of col[begin, end) are in [0, n_cols).
template <typename Index>
bool columns_in_range(const Index* col, int64_t begin, int64_t end, int64_t n_cols);

}  // namespace mmssl::MMSSL_ISA
