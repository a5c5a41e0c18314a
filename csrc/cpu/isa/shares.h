// The sum of the partial results of tasks. Included through common/each_isa.h, so there is no include guard. T is float
// or double.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// total[r] += Σ_p shares[p][r], in the order of p, for the rows [begin, end).
template <typename T>
void add_shares(const T* shares,  // [count, rows, d]
                int64_t count, int64_t rows, int64_t d,
                T* total,  // [rows, d]
                int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
