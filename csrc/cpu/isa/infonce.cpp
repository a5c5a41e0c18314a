#include "cpu/isa/infonce.h"

#include "cpu/isa/scalar.h"
#include "cpu/isa/vec_math.h"

namespace mmssl::MMSSL_ISA {
namespace {

template <typename T>
constexpr T kNothing = -static_cast<T>(__builtin_inf());

inline float exponential(float x) { return exp_f32(x); }
inline double exponential(double x) { return __builtin_exp(x); }

inline int64_t place_of(const int64_t* left_out, int64_t row, int64_t first_key, int64_t width) {
  if (left_out == nullptr) return -1;
  const int64_t place = left_out[row] - first_key;
  return place < width ? place : -1;
}

}  // namespace

template <typename T>
void infonce_sum(T* s, int64_t rows, int64_t width, int64_t first_key, const int64_t* left_out, T scale, T* highest,
                 double* sum) {
  for (int64_t r = 0; r < rows; ++r) {
    T* row = s + r * width;
    const int64_t place = place_of(left_out, r, first_key, width);
    if (place >= 0) row[place] = kNothing<T>;
    T top = kNothing<T>;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < width; ++j) top = row[j] > top ? row[j] : top;
    if (top > highest[r]) {
      if (sum[r] > 0) sum[r] *= __builtin_exp(static_cast<double>(highest[r] - top) * scale);
      highest[r] = top;
    }
    if (highest[r] == kNothing<T>) continue;  // all entries so far are excluded
    const T shift = highest[r];
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t j = 0; j < width; ++j) part += exponential((row[j] - shift) * scale);
    sum[r] += part;
  }
}

template <typename T>
void infonce_weigh(T* s, int64_t rows, int64_t width, int64_t first_key, const int64_t* left_out, T scale,
                   const T* weight, const T* lse) {
  for (int64_t r = 0; r < rows; ++r) {
    T* row = s + r * width;
    const T w = weight[r], shift = lse[r];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) row[j] = w * exponential(row[j] * scale - shift);
    const int64_t place = place_of(left_out, r, first_key, width);
    if (place >= 0) row[place] = 0;
  }
}

template <typename T>
void infonce_exp(T* s, int64_t rows, int64_t width, int64_t first_key, const int64_t* left_out, T scale, double* sum) {
  for (int64_t r = 0; r < rows; ++r) {
    T* row = s + r * width;
    const int64_t place = place_of(left_out, r, first_key, width);
    if (place >= 0) row[place] = kNothing<T>;
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t j = 0; j < width; ++j) {
      row[j] = exponential((row[j] - 1) * scale);
      part += row[j];
    }
    sum[r] += part;
    if (place >= 0) row[place] = 0;
  }
}

void infonce_round(float* x, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    BFloat16 rounded;
    store(x[j], &rounded);
    x[j] = load(rounded);
  }
}

template <typename T>
void infonce_finish(const T* highest, const double* sum, int64_t parts, int64_t rows, T scale, const T* anchors,
                    const T* positives, int64_t d, T* lse, T* term, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    T top = kNothing<T>;
    for (int64_t p = 0; p < parts; ++p) top = highest[p * rows + r] > top ? highest[p * rows + r] : top;
    double total = 0;
    for (int64_t p = 0; p < parts; ++p) {
      const double part = sum[p * rows + r];
      // A part whose keys are all excluded has highest = -inf and is skipped. NaN must not be skipped.
      if (part != 0) total += part * __builtin_exp(static_cast<double>(highest[p * rows + r] - top) * scale);
    }
    double product = 0;
    for (int64_t j = 0; j < d; ++j) product += static_cast<double>(anchors[r * d + j]) * positives[r * d + j];
    const double denominator = static_cast<double>(top) * scale + __builtin_log(total);
    lse[r] = static_cast<T>(denominator);
    term[r] = static_cast<T>(denominator - product * scale);
  }
}

#define MMSSL_INSTANTIATE(T)                                                                                         \
  template void infonce_sum<T>(T*, int64_t, int64_t, int64_t, const int64_t*, T, T*, double*);                       \
  template void infonce_weigh<T>(T*, int64_t, int64_t, int64_t, const int64_t*, T, const T*, const T*);              \
  template void infonce_exp<T>(T*, int64_t, int64_t, int64_t, const int64_t*, T, double*);                           \
  template void infonce_finish<T>(const T*, const double*, int64_t, int64_t, T, const T*, const T*, int64_t, T*, T*, \
                                  int64_t, int64_t);
MMSSL_INSTANTIATE(float)
MMSSL_INSTANTIATE(double)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
