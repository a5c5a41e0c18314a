// The launchers of the random number generator. They take raw device pointers.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace mmssl::cuda {

// words[i][0 .. 4) = Philox4x32 of the low 32 bits of counter[i][0 .. 4).
void launch_philox4x32(uint64_t seed,
                       const int64_t* counter,  // [n, 4]
                       int64_t n,
                       int64_t* words,  // [n, 4]
                       cudaStream_t stream);

// bits[r][j] is the 32-bit word of column j of row rows[r].
void launch_philox_bits(const int64_t* seed_offset,  // [2]
                        uint32_t stream_word,
                        const int64_t* rows,  // [n_rows]
                        int64_t n_rows, int64_t columns,
                        int64_t* bits,  // [n_rows, columns]
                        cudaStream_t stream);

}  // namespace mmssl::cuda
