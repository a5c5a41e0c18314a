// Dot products and weighted sums of rows with some tens of values. For files in csrc/cpu/isa only.
#pragma once

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

}  // namespace mmssl::MMSSL_ISA
