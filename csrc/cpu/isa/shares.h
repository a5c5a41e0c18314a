// Sums of what the tasks of a parallel walk put aside. Included through common/each_isa.h: no include guard. T: float,
// double.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// total[r] += Σ over p, in order, of shares[p][r], for the rows [begin, end).
template <typename T>
void add_shares(const T* shares,  // [count, rows, d]
                int64_t count, int64_t rows, int64_t d,
                T* total,  // [rows, d]
                int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
