#include "cpu/isa/unit_rows.h"

#include <cfloat>

#include "cpu/isa/scalar.h"

namespace mmssl::MMSSL_ISA {
namespace {

// The factor by which a row is divided before it is squared. It is 1 for float, whose squares are in the range of
// double.
inline double divisor(const float*, int64_t) { return 1; }
inline double divisor(const BFloat16*, int64_t) { return 1; }
inline double divisor(const double* x, int64_t d) {
  double largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < d; ++j) largest = __builtin_fabs(x[j]) > largest ? __builtin_fabs(x[j]) : largest;
  return largest > 0 ? largest : 1;
}

inline float no_more_than_largest(double x, float) { return x > FLT_MAX ? FLT_MAX : static_cast<float>(x); }
inline double no_more_than_largest(double x, double) { return x > DBL_MAX ? DBL_MAX : x; }

}  // namespace

template <typename T, typename A>
void unit_rows_fwd(const T* x, int64_t d, T* unit, A* inverse, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* row = x + r * d;
    T* out = unit + r * d;
    const double by = divisor(row, d);
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < d; ++j) {
      const double scaled = static_cast<double>(load(row[j])) / by;
      square += scaled * scaled;
    }
    const double scale = square == 0 ? 0 : 1 / __builtin_sqrt(square);
    inverse[r] = no_more_than_largest(scale / by, A{});
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) {
      store(static_cast<A>(static_cast<double>(load(row[j])) / by * scale), out + j);
    }
  }
}

template <typename T, typename A>
void unit_rows_bwd(const T* grad, const T* x, const A* inverse, int64_t d, T* x_grad, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* g = grad + r * d;
    const T* row = x + r * d;
    const A scale = inverse[r];
    T* out = x_grad + r * d;
    if (scale == 0) {
      for (int64_t j = 0; j < d; ++j) store(A{0}, out + j);
      continue;
    }
    A along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < d; ++j) along += load(g[j]) * (load(row[j]) * scale);
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) store(scale * (load(g[j]) - load(row[j]) * scale * along), out + j);
  }
}

#define MMSSL_INSTANTIATE(T, A)                                                   \
  template void unit_rows_fwd<T, A>(const T*, int64_t, T*, A*, int64_t, int64_t); \
  template void unit_rows_bwd<T, A>(const T*, const T*, const A*, int64_t, T*, int64_t, int64_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
