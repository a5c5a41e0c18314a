// Dot products and weighted sums of rows with some tens of values. For files in csrc/cpu/isa only.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/isa/lanes.h"

namespace mmssl::MMSSL_ISA {

// The dot product of n values: first lane by lane, then over the lanes, then the remaining values.
template <typename T>
inline accumulate_t<T> dot(const T* a, const T* b, int64_t n) {
  using A = accumulate_t<T>;
  Lanes<A> sums = {};
  int64_t j = 0;
  for (; j + kLanes<A> <= n; j += kLanes<A>) sums += load_lanes(a + j) * load_lanes(b + j);
  A total = j > 0 ? sum_lanes<A>(sums) : A(0);
  for (; j < n; ++j) total += load(a[j]) * load(b[j]);
  return total;
}

// y[j] = scale * sum over t of weight[t * weight_stride] * x[t * x_stride + j], j < n.
template <typename T, typename A>
inline void weighted_sum(const A* weight, int64_t weight_stride, const T* x, int64_t x_stride, int64_t count, A scale,
                         int64_t n, T* y) {
  int64_t j = 0;
  for (; j + kLanes<A> <= n; j += kLanes<A>) {
    Lanes<A> sum = {};
    for (int64_t t = 0; t < count; ++t) sum += weight[t * weight_stride] * load_lanes(x + t * x_stride + j);
    store_lanes(sum * scale, y + j);
  }
  for (; j < n; ++j) {
    A sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += weight[t * weight_stride] * load(x[t * x_stride + j]);
    store(sum * scale, y + j);
  }
}

// The lanes 0, 2, 4, ... and 1, 3, 5, ... of the vector that is a followed by b.
template <typename A>
inline Lanes<A> every_second_lane(Lanes<A> a, Lanes<A> b, int first) {
  typedef std::conditional_t<sizeof(A) == 4, int32_t, int64_t> Index;
  Lanes<Index> at = {};
  for (int i = 0; i < kLanes<A>; ++i) at[i] = 2 * i + first;
#if defined(__clang__)
  Lanes<A> both[2] = {a, b}, y = {};
  for (int i = 0; i < kLanes<A>; ++i) y[i] = both[at[i] / kLanes<A>][at[i] % kLanes<A>];
  return y;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

// The sums over the lanes of x[0], x[1], ..., in the lanes 0, 1, ... Every sum adds neighbours first, then the sums of
// neighbours, and so on. It takes 3 instructions per vector, where separate sums take 8.
template <typename A>
inline __attribute__((always_inline)) Lanes<A> sums_of_lanes(Lanes<A> (&x)[kLanes<A>]) {
#pragma GCC unroll 4
  for (int n = kLanes<A> / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      x[i] = every_second_lane<A>(x[2 * i], x[2 * i + 1], 0) + every_second_lane<A>(x[2 * i], x[2 * i + 1], 1);
    }
  }
  return x[0];
}

// y[i] = the dot product of n values at x + i stride and z + i z_stride, for i < rows. For i from rows to `padded`, a
// multiple of all numbers of lanes, y[i] = y[rows - 1].
template <bool all, typename T, typename A = accumulate_t<T>>
inline __attribute__((always_inline)) void dots(const T* x, int64_t stride, const T* z, int64_t z_stride, int64_t n,
                                                int64_t rows, int64_t padded, A* y) {
  const auto row = [&](int64_t i) { return all || i < rows ? i : rows - 1; };
  const int64_t whole = n / kLanes<A> * kLanes<A>;
  for (int64_t first = 0; first < padded; first += kLanes<A>) {
    Lanes<A> sums[kLanes<A>] = {};
    for (int64_t j = 0; j < whole; j += kLanes<A>) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<A>; ++i) {
        const int64_t r = row(first + i);
        sums[i] += load_lanes(x + r * stride + j) * load_lanes(z + r * z_stride + j);
      }
    }
    store_lanes(sums_of_lanes<A>(sums), y + first);
    if (whole == n) continue;
    for (int i = 0; i < kLanes<A>; ++i) {
      const int64_t r = row(first + i);
      for (int64_t j = whole; j < n; ++j) y[first + i] += load(x[r * stride + j]) * load(z[r * z_stride + j]);
    }
  }
}

}  // namespace mmssl::MMSSL_ISA
