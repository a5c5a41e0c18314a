#include "cpu/isa/cosine_block.h"

#include "cpu/isa/scalar.h"

namespace mmssl::MMSSL_ISA {
namespace {

template <typename Index>
inline int64_t first_not_below(const Index* col, int64_t begin, int64_t end, int64_t item) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (col[middle] < item) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Sets the seen entries of row r of a tile that starts at first_item to 0.
template <typename A, typename Index>
inline void forget_seen(A* row, int64_t r, int64_t first_item, int64_t width, const int64_t* crow, const Index* col) {
  if (crow == nullptr) return;
  int64_t e = first_not_below(col, crow[r], crow[r + 1], first_item);
  for (; e < crow[r + 1] && col[e] < first_item + width; ++e) row[col[e] - first_item] = 0;
}

template <typename A>
constexpr double kLargest = 0;
template <>
constexpr double kLargest<float> = 3.4028234663852886e38;
template <>
constexpr double kLargest<double> = 1.7976931348623157e308;

}  // namespace

template <typename T, typename A, typename Index>
void cosine_block_place(A* products, int64_t stride, int64_t rows, int64_t first_item, int64_t width,
                        const int64_t* crow, const Index* col, T* block, int64_t n_items, double* square) {
  for (int64_t r = 0; r < rows; ++r) {
    A* row = products + r * stride;
    forget_seen(row, r, first_item, width, crow, col);
    T* out = block + r * n_items;
    if (static_cast<const void*>(out) != static_cast<const void*>(row)) {
      for (int64_t j = 0; j < width; ++j) store(row[j], out + j);
    }
    if (square == nullptr) continue;
    double sum = 0;  // double, because the squares of small entries underflow in float: 1e-23² is 0
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    square[r] += sum;
  }
}

template <typename T, typename A>
void cosine_block_scale(T* block, int64_t rows, int64_t n_items, const double* square, A* inverse) {
  for (int64_t r = 0; r < rows; ++r) {
    const double exact = square[r] == 0 ? 0 : 1 / __builtin_sqrt(square[r]);
    const A scale = static_cast<A>(exact > kLargest<A> ? kLargest<A> : exact);
    inverse[r] = scale;
    T* row = block + r * n_items;
#pragma omp simd
    for (int64_t j = 0; j < n_items; ++j) store(load(row[j]) * scale, row + j);
  }
}

template <typename T>
void cosine_block_along(const T* grad, const T* block, int64_t n_items, double* along, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* g = grad + r * n_items;
    const T* y = block + r * n_items;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n_items; ++j) sum += static_cast<double>(load(g[j])) * static_cast<double>(load(y[j]));
    along[r] = sum;
  }
}

template <typename T, typename A, typename Index>
void cosine_block_grad(const T* grad, const T* block, int64_t n_items, int64_t rows, int64_t first_item, int64_t width,
                       const int64_t* crow, const Index* col, const A* inverse, const double* along, A* products) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* g = grad + r * n_items;
    A* out = products + r * width;
    if (inverse == nullptr) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) out[j] = load(g[j]);
    } else {
      const T* y = block + r * n_items;
      const A scale = inverse[r], share = static_cast<A>(along[r]);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) out[j] = scale * (load(g[j]) - share * load(y[j]));
    }
    forget_seen(out, r, first_item, width, crow, col);
  }
}

#define MMSSL_INSTANTIATE_INDEX(T, A, Index)                                                                           \
  template void cosine_block_place<T, A, Index>(A*, int64_t, int64_t, int64_t, int64_t, const int64_t*, const Index*,  \
                                                T*, int64_t, double*);                                                 \
  template void cosine_block_grad<T, A, Index>(const T*, const T*, int64_t, int64_t, int64_t, int64_t, const int64_t*, \
                                               const Index*, const A*, const double*, A*);
#define MMSSL_INSTANTIATE(T, A)                                                    \
  MMSSL_INSTANTIATE_INDEX(T, A, int32_t)                                           \
  MMSSL_INSTANTIATE_INDEX(T, A, int64_t)                                           \
  template void cosine_block_scale<T, A>(T*, int64_t, int64_t, const double*, A*); \
  template void cosine_block_along<T>(const T*, const T*, int64_t, double*, int64_t, int64_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE
#undef MMSSL_INSTANTIATE_INDEX

}  // namespace mmssl::MMSSL_ISA
