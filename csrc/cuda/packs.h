// A lane's share of a row: 16 bytes where every row starts at a multiple of 16, single values elsewhere.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/bfloat16.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

template <typename T>
struct WideType {
  using type = T;
};
template <>
struct WideType<BFloat16> {
  using type = float;
};

// The type sums are formed in: T itself, float for bfloat16.
template <typename T>
using wide_t = typename WideType<T>::type;

template <typename T>
constexpr int kPackSize = 16 / sizeof(T);  // values in 16 bytes

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ __forceinline__ void narrow(float x, float* y) { *y = x; }
__device__ __forceinline__ void narrow(double x, double* y) { *y = x; }
// Rounds to nearest, ties to even, as torch does; NaN stays NaN.
__device__ __forceinline__ void narrow(float x, BFloat16* y) {
  const unsigned bits = __float_as_uint(x);
  const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

// n neighbouring values of a row as they were read: in 16-byte pieces if they fill whole ones, which must then be
// aligned. bfloat16 stays packed, two values a register, until a value is asked for.
template <int n, typename T>
class Pack {
 public:
  // Through the read-only path: nothing may write these values while the kernel runs.
  __device__ __forceinline__ void load(const T* from) {
    if constexpr (kWhole) {
#pragma unroll
      for (int p = 0; p < kWords / 4; ++p) {
        const uint4 piece = __ldg(reinterpret_cast<const uint4*>(from) + p);
        held_[4 * p] = piece.x;
        held_[4 * p + 1] = piece.y;
        held_[4 * p + 2] = piece.z;
        held_[4 * p + 3] = piece.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) held_[i] = from[i];
    }
  }

  __device__ __forceinline__ void zero() { memset(held_, 0, sizeof(held_)); }

  __device__ __forceinline__ wide_t<T> operator[](int i) const {
    if constexpr (kWhole && sizeof(T) == 2) {
      return __uint_as_float(i % 2 == 0 ? held_[i / 2] << 16 : held_[i / 2] & 0xffff0000u);
    } else if constexpr (kWhole) {
      T x;
      memcpy(&x, held_ + i * sizeof(T) / 4, sizeof(x));
      return x;
    } else {
      return widen(held_[i]);
    }
  }

 private:
  static constexpr bool kWhole = n * sizeof(T) % 16 == 0;
  static constexpr int kWords = n * sizeof(T) / 4;
  std::conditional_t<kWhole, unsigned[kWhole ? kWords : 1], T[n]> held_;
};

// n neighbouring values of a row to memory, by the same rule.
template <int n, typename T>
__device__ __forceinline__ void store_values(const T (&x)[n], T* to) {
  if constexpr (n * sizeof(T) % 16 == 0) {
    constexpr int pieces = n * sizeof(T) / 16;
    uint4 raw[pieces];
    memcpy(raw, x, sizeof(x));
#pragma unroll
    for (int p = 0; p < pieces; ++p) reinterpret_cast<uint4*>(to)[p] = raw[p];
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = x[i];
  }
}

// The sum of x over the lanes whose numbers differ in the bits from `low` up to, not including, `high` (powers of 2).
// Every lane of the warp must call it, and all of those get the same bits.
template <typename A>
__device__ __forceinline__ A sum_over_lanes(A x, int low, int high) {
#pragma unroll 1
  for (int bit = low; bit < high; bit *= 2) x += __shfl_xor_sync(kAllLanes, x, bit);
  return x;
}

// Whether rows `stride` values apart that start at `x` all start at multiples of 16 bytes.
template <typename T>
bool rows_aligned(const T* x, int64_t stride) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

// log2 of the lanes that a row of d values takes, `pack` a lane: the least power of two that is enough, at most 32.
inline int lanes_log2(int64_t d, int pack) {
  int log2 = 0;
  while (log2 < 5 && (int64_t{pack} << log2) < d) ++log2;
  return log2;
}

}  // namespace mmssl::cuda
