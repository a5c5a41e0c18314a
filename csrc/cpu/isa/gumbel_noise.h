// Gumbel noise for a stretch of a row. For files in csrc/cpu/isa only.
#pragma once

#include <cstdint>

#include "cpu/isa/philox_lanes.h"
#include "cpu/isa/vec_math.h"

namespace mmssl::MMSSL_ISA {

constexpr int64_t kNoiseColumns = 4 * kPhiloxColumns;  // what one call makes at most: 1 KiB, stays in L1

// noise[j] = g = -log E, E = -log1p(-v), of column `column + j`, j < width rounded up to 64; width <= 256; `column` is
// a multiple of 64. Not inlined, whole vectors only: an entry gets the same bits in whichever pass and tile it is made.
static __attribute__((noinline)) void gumbel_noise(PhiloxKey key, int64_t column, int64_t width, uint32_t row,
                                                   uint32_t offset, float* noise) {
  uint32_t bits[kPhiloxColumns];
  for (int64_t first = 0; first < width; first += kPhiloxColumns) {
    philox_columns(key, column + first, row, offset, kStreamDense, bits);
    for (int64_t j = 0; j < kPhiloxColumns; ++j) {
      noise[first + j] = -log_f32(-log1p_f32(-unit_from_bits(bits[j])));
    }
  }
}

}  // namespace mmssl::MMSSL_ISA
