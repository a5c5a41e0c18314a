// The parameters of dropout with a counter-based mask.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace mmssl {

// The entry (row, column) is dropped if its word of kStreamDropout is below `threshold`. Other entries are multiplied
// by `scale`.
struct Dropout {
  uint64_t seed;
  uint32_t offset;
  uint32_t threshold;
  double scale;
};

// rate is in [0, 1).
inline Dropout dropout_of(uint64_t seed, uint32_t offset, double rate) {
  const double words = rate * 0x1p32 + 0.5;
  const uint32_t threshold = words < 0x1p32 ? static_cast<uint32_t>(words) : 0xffffffffu;
  return {seed, offset, threshold, 1 / (1 - rate)};
}

}  // namespace mmssl
