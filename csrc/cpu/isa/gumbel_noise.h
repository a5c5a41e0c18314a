// Gumbel noise for consecutive columns of a row. For files in csrc/cpu/isa only.
#pragma once

#include <cstdint>

#include "cpu/isa/philox_lanes.h"
#include "cpu/isa/vec_math.h"

namespace mmssl::MMSSL_ISA {

constexpr int64_t kNoiseColumns = 4 * kPhiloxColumns;  // maximum per call: 1 KiB, which stays in L1

// noise[j] = g = -log E with E = -log1p(-v) for column `column + j`, for j below width rounded up to 64. width is at
// most 256, and `column` is a multiple of 64. The function is not inlined and computes whole vectors only, so that an
// entry has the same bits in every pass and tile.
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
