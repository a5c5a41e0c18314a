// Loading, storing and accumulating the value types of kernels: float and double directly, bfloat16 as float. For files
// in csrc/cpu/isa only. The functions are in the namespace of the instruction set, so that a copy compiled for AVX-512
// cannot be linked into the baseline kernels.
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

// The type of sums: float for bfloat16, else T.
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
// Rounds to nearest, ties to even, like torch. NaN stays NaN.
inline void store(float x, BFloat16* y) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

}  // namespace mmssl::MMSSL_ISA
