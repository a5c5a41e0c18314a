// Loading, storing and accumulating the kernels' value types: float and double as they are, bfloat16 through float.
// For files in csrc/cpu/isa only; in the namespace of the instruction set, so that no copy compiled for AVX-512 can be
// linked into the baseline.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/bfloat16.h"

namespace mmssl::MMSSL_ISA {

template <typename T>
struct AccumulateType {
  using type = T;
};
template <>
struct AccumulateType<BFloat16> {
  using type = float;
};

// The type sums are formed in: T itself, float for bfloat16.
template <typename T>
using accumulate_t = typename AccumulateType<T>::type;

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}

inline void store(float x, float* y) { *y = x; }
inline void store(double x, double* y) { *y = x; }
// Rounds to nearest, ties to even, as torch does; NaN stays NaN.
inline void store(float x, BFloat16* y) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

}  // namespace mmssl::MMSSL_ISA
