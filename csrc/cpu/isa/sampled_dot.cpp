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

#define MMSSL_INSTANTIATE(T, Index)                                                                               \
  template void sampled_dot_fwd<T, Index>(const int64_t*, const Index*, const T*, const T*, int64_t, T*, int64_t, \
                                          int64_t);
MMSSL_INSTANTIATE(float, int32_t)
MMSSL_INSTANTIATE(float, int64_t)
MMSSL_INSTANTIATE(double, int32_t)
MMSSL_INSTANTIATE(double, int64_t)
MMSSL_INSTANTIATE(BFloat16, int32_t)
MMSSL_INSTANTIATE(BFloat16, int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
