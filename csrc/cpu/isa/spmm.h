// Kernels of spmm over the rows [begin, end) of a CSR block. Included through common/each_isa.h: no include guard.
// T: float, double, BFloat16 (sums in A = float). Index: int32_t, int64_t.
#include <cstdint>

#include "common/bfloat16.h"
#include "common/spmm_args.h"

namespace mmssl::MMSSL_ISA {

// The sum common/spmm_args.h defines, in the order of the entries: the same bits for any split of the rows.
// Memory-bound: d values of x an entry and d of y (and of base and total) a row; x is read from cache where it fits.
template <typename T, typename A, typename Index>
void spmm_rows(const SpmmArgs<T, A, Index>& args, int64_t begin, int64_t end);

// Whether every one of col[begin, end) is in [0, n_cols).
template <typename Index>
bool columns_in_range(const Index* col, int64_t begin, int64_t end, int64_t n_cols);

}  // namespace mmssl::MMSSL_ISA
