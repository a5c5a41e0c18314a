#include "cpu/isa/shares.h"

namespace mmssl::MMSSL_ISA {

template <typename T>
void add_shares(const T* shares, int64_t count, int64_t rows, int64_t d, T* total, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    T* y = total + r * d;
    for (int64_t p = 0; p < count; ++p) {
      const T* x = shares + (p * rows + r) * d;
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) y[j] += x[j];
    }
  }
}

template void add_shares<float>(const float*, int64_t, int64_t, int64_t, float*, int64_t, int64_t);
template void add_shares<double>(const double*, int64_t, int64_t, int64_t, double*, int64_t, int64_t);

}  // namespace mmssl::MMSSL_ISA
