// Values of the kernels' types as double and back, and random CSR blocks. Every array has exactly the size it needs, so
// that AddressSanitizer sees one step too far.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "common/bfloat16.h"

inline double value(float x) { return x; }
inline double value(double x) { return x; }
inline double value(mmssl::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

template <typename T>
T make(double x) {
  return static_cast<T>(x);
}
template <>
inline mmssl::BFloat16 make(double x) {
  const float y = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &y, sizeof(bits));
  return {static_cast<uint16_t>(bits >> 16)};
}

template <typename T>
std::vector<T> random_values(Random& random, int64_t n) {
  std::vector<T> x(n);
  for (T& each : x) each = make<T>(random.uniform());
  return x;
}

template <typename Index>
struct Block {
  std::vector<int64_t> crow;
  std::vector<Index> col;  // ascending within a row, distinct
  int64_t nnz() const { return static_cast<int64_t>(col.size()); }
};

// Every entry is present with probability `share`.
template <typename Index>
Block<Index> random_block(Random& random, int64_t rows, int64_t items, double share) {
  Block<Index> block{{0}, {}};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < items; ++i) {
      if (random.uniform() < 2 * share - 1) block.col.push_back(static_cast<Index>(i));
    }
    block.crow.push_back(block.nnz());
  }
  block.col.shrink_to_fit();
  block.crow.shrink_to_fit();
  return block;
}
