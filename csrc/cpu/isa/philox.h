// Kernels of philox_bits and the samplers. Included through common/each_isa.h, so there is no include guard.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

// bits[r][j] is the 32-bit word of column j of row rows[r], for r in [begin, end).
void philox_bits(uint64_t seed, uint32_t offset, uint32_t stream,
                 const int64_t* rows,  // [B], global ids
                 int64_t columns,
                 int64_t* bits,  // [B, columns]
                 int64_t begin, int64_t end);

// words[j] = w1 2^32 + w0 of the counter (first + j, 0, offset, stream), j < n.
void philox_words(uint64_t seed, uint32_t offset, uint32_t stream, int64_t first, int64_t n,
                  uint64_t* words  // [n]
);

}  // namespace mmssl::MMSSL_ISA
