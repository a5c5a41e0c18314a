#include "cpu/isa/philox.h"

#include "cpu/isa/philox_lanes.h"

namespace mmssl::MMSSL_ISA {

void philox_bits(uint64_t seed, uint32_t offset, uint32_t stream, const int64_t* rows, int64_t columns, int64_t* bits,
                 int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(seed);
  uint32_t block[kPhiloxColumns];
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t first = 0; first < columns; first += kPhiloxColumns) {
      philox_columns(key, first, static_cast<uint32_t>(rows[r]), offset, stream, block);
      const int64_t width = columns - first < kPhiloxColumns ? columns - first : kPhiloxColumns;
      for (int64_t j = 0; j < width; ++j) bits[r * columns + first + j] = block[j];
    }
  }
}

void philox_words(uint64_t seed, uint32_t offset, uint32_t stream, int64_t first, int64_t n, uint64_t* words) {
  constexpr int64_t kCounters = kPhiloxColumns / 4;
  uint32_t block[kPhiloxColumns];
  for (int64_t start = 0; start < n; start += kCounters) {
    philox_columns(philox_key(seed), 4 * (first + start), 0, offset, stream, block);
    const int64_t count = n - start < kCounters ? n - start : kCounters;
    for (int64_t j = 0; j < count; ++j) {
      words[start + j] = static_cast<uint64_t>(block[4 * j + 1]) << 32 | block[4 * j];
    }
  }
}

}  // namespace mmssl::MMSSL_ISA
