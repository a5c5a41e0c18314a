#include "cpu/isa/sampled_dot.h"

#include "cpu/isa/scalar.h"

namespace mmssl::MMSSL_ISA {

template <typename T, typename Index>
void sampled_dot_fwd(const int64_t* crow, const Index* col, const T* u, const T* v, int64_t d, T* s, int64_t begin,
                     int64_t end) {
  using A = accumulate_t<T>;
  for (int64_t r = begin; r < end; ++r) {
    const T* a = u + r * d;
    for (int64_t e = crow[r]; e < crow[r + 1]; ++e) {
      const T* b = v + static_cast<int64_t>(col[e]) * d;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < d; ++j) sum += load(a[j]) * load(b[j]);
      store(sum, s + e);
    }
  }
}

template <typename T, typename Index>
void sampled_dot_bwd(const int64_t* crow, const Index* col, const int64_t* order, const T* w, const T* x, int64_t d,
                     T* y, int64_t begin, int64_t end) {
  using A = accumulate_t<T>;
  constexpr int64_t kLanes = 64;  // a strip of y that stays in registers while the row's entries go by
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t start = 0; start < d; start += kLanes) {
      const int64_t width = d - start < kLanes ? d - start : kLanes;
      A sum[kLanes] = {};
      for (int64_t e = crow[r]; e < crow[r + 1]; ++e) {
        const A weight = load(w[order == nullptr ? e : order[e]]);
        const T* row = x + static_cast<int64_t>(col[e]) * d + start;
        if (width == kLanes) {
#pragma omp simd
          for (int64_t j = 0; j < kLanes; ++j) sum[j] += weight * load(row[j]);
        } else {
#pragma omp simd
          for (int64_t j = 0; j < width; ++j) sum[j] += weight * load(row[j]);
        }
      }
      for (int64_t j = 0; j < width; ++j) store(sum[j], y + r * d + start + j);
    }
  }
}

#define MMSSL_INSTANTIATE(T, Index)                                                                                  \
  template void sampled_dot_fwd<T, Index>(const int64_t*, const Index*, const T*, const T*, int64_t, T*, int64_t,    \
                                          int64_t);                                                                  \
  template void sampled_dot_bwd<T, Index>(const int64_t*, const Index*, const int64_t*, const T*, const T*, int64_t, \
                                          T*, int64_t, int64_t);
MMSSL_INSTANTIATE(float, int32_t)
MMSSL_INSTANTIATE(float, int64_t)
MMSSL_INSTANTIATE(double, int32_t)
MMSSL_INSTANTIATE(double, int64_t)
MMSSL_INSTANTIATE(BFloat16, int32_t)
MMSSL_INSTANTIATE(BFloat16, int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
