// The values of a row that a lane loads at once: 16 bytes if every row starts at a multiple of 16, else a single value.
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

// The type of sums: float for bfloat16, else T.
template <typename T>
using wide_t = typename WideType<T>::type;

template <typename T>
constexpr int kPackSize = 16 / sizeof(T);  // values in 16 bytes

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ __forceinline__ void narrow(float x, float* y) { *y = x; }
__device__ __forceinline__ void narrow(double x, double* y) { *y = x; }
// Rounds to nearest, ties to even, like torch. NaN stays NaN.
__device__ __forceinline__ void narrow(float x, BFloat16* y) {
  const unsigned bits = __float_as_uint(x);
  const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

// n consecutive values of a row. They are read in 16-byte pieces, which must be aligned, if they fill whole pieces.
// bfloat16 values are unpacked when they are used, so that a register has two of them.
template <int n, typename T>
class Pack {
 public:
  // Uses the read-only cache, so these values must not be written while the kernel runs.
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

// Writes n consecutive values of a row, by the same rule.
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

// The sum of x over the lanes whose numbers differ in the bits from `low` up to, but not including, `high` (powers of
// 2). Every lane of the warp must call it, and all lanes of a sum get the same bits.
template <typename A>
__device__ __forceinline__ A sum_over_lanes(A x, int low, int high) {
#pragma unroll 1
  for (int bit = low; bit < high; bit *= 2) x += __shfl_xor_sync(kAllLanes, x, bit);
  return x;
}

// Whether all rows of a matrix at `x` with this stride start at multiples of 16 bytes.
template <typename T>
bool rows_aligned(const T* x, int64_t stride) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

// log2 of the number of lanes for a row of d values with `pack` values per lane: the smallest sufficient power of two,
// at most 32.
inline int lanes_log2(int64_t d, int pack) {
  int log2 = 0;
  while (log2 < 5 && (int64_t{pack} << log2) < d) ++log2;
  return log2;
}

}  // namespace mmssl::cuda
