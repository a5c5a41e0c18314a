// Fixed-width vectors as a vector type of the compiler, so that the accumulators of a short inner loop stay in
// registers. For an array, GCC interchanges the loops over entries and lanes instead. For files in csrc/cpu/isa only.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/isa/scalar.h"

namespace mmssl::MMSSL_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename A, int bytes>
struct VectorOf {
  typedef A type __attribute__((vector_size(bytes)));
};

// A vector of A (float or double), kVectorBytes wide.
template <typename A>
using Lanes = typename VectorOf<A, kVectorBytes>::type;

template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

inline Lanes<float> load_lanes(const float* x) {
  Lanes<float> y;
  std::memcpy(&y, x, sizeof(y));
  return y;
}
inline Lanes<double> load_lanes(const double* x) {
  Lanes<double> y;
  std::memcpy(&y, x, sizeof(y));
  return y;
}
inline Lanes<float> load_lanes(const BFloat16* x) {
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef uint32_t Word __attribute__((vector_size(kVectorBytes)));
  Half half;
  std::memcpy(&half, x, sizeof(half));
  const Word word = __builtin_convertvector(half, Word) << 16;
  Lanes<float> y;
  std::memcpy(&y, &word, sizeof(y));
  return y;
}

// The sum of a vector, by adding the upper half to the lower half until one value is left.
template <typename A, int bytes = kVectorBytes>
inline A sum_lanes(typename VectorOf<A, bytes>::type x) {
  if constexpr (bytes == 2 * sizeof(A)) {
    return x[0] + x[1];
  } else {
    typename VectorOf<A, bytes / 2>::type low, high;
    std::memcpy(&low, &x, bytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&x) + bytes / 2, bytes / 2);
    return sum_lanes<A, bytes / 2>(low + high);
  }
}

inline void store_lanes(Lanes<float> x, float* y) { std::memcpy(y, &x, sizeof(x)); }
inline void store_lanes(Lanes<double> x, double* y) { std::memcpy(y, &x, sizeof(x)); }
inline void store_lanes(Lanes<float> x, BFloat16* y) {
  for (int lane = 0; lane < kLanes<float>; ++lane) store(x[lane], y + lane);
}

}  // namespace mmssl::MMSSL_ISA
