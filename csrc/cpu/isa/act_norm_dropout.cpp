#include "cpu/isa/act_norm_dropout.h"

#include "cpu/isa/philox_lanes.h"

namespace mmssl::MMSSL_ISA {
namespace {

constexpr int64_t kColumns = kPhiloxColumns;
constexpr int64_t kShortSum = 32;  // number of rows that are added in T before the sum is added in double

// `count` sums per column over the rows, in the order of the rows.
template <typename T, int count>
struct ColumnSums {
  T part[count][kColumns] = {};
  double total[count][kColumns] = {};

  void row_done(int64_t row, int64_t rows) {
    if ((row + 1) % kShortSum != 0 && row + 1 != rows) return;
    for (int s = 0; s < count; ++s) {
      for (int64_t j = 0; j < kColumns; ++j) {
        total[s][j] += static_cast<double>(part[s][j]);
        part[s][j] = 0;
      }
    }
  }
};

template <typename T>
inline T activated(T x, T slope) {
  return x > 0 ? x : slope * x;
}
template <typename T>
inline T slope_at(T x, T slope) {
  return x > 0 ? T{1} : slope;
}

// factor[j] is the dropout factor of column `column + j` of `row`, for j < 64.
template <typename T>
inline void dropout_factors(const Dropout& dropout, int64_t row, int64_t column, T* factor) {
  const T scale = static_cast<T>(dropout.scale);
  if (dropout.threshold == 0) {
    for (int64_t j = 0; j < kColumns; ++j) factor[j] = scale;
    return;
  }
  uint32_t bits[kColumns];
  philox_columns(philox_key(dropout.seed), column, static_cast<uint32_t>(row), dropout.offset, kStreamDropout, bits);
  for (int64_t j = 0; j < kColumns; ++j) factor[j] = bits[j] >= dropout.threshold ? scale : T{0};
}

// The mean and 1 / sqrt(variance + eps) of the columns of a block.
template <typename T>
struct Statistics {
  T mean[kColumns], inverse[kColumns];

  Statistics(const T* mean_in, const T* variance, double eps, int64_t first, int64_t width) {
    for (int64_t j = 0; j < width; ++j) {
      mean[j] = mean_in[first + j];
      inverse[j] = static_cast<T>(1 / __builtin_sqrt(static_cast<double>(variance[first + j]) + eps));
    }
  }
};

inline int64_t width_of(int64_t first, int64_t columns) {
  return columns - first < kColumns ? columns - first : kColumns;
}

}  // namespace

template <typename T>
void act_norm_dropout_fwd(const T* z, int64_t rows, int64_t columns, const T* weight, const T* bias, double slope_in,
                          double eps, Dropout dropout, T* out, T* mean, T* variance, int64_t begin, int64_t end) {
  const T slope = static_cast<T>(slope_in);
  T factor[kColumns];
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kColumns, width = width_of(first, columns);
    {
      ColumnSums<T, 1> sums;
      for (int64_t r = 0; r < rows; ++r) {
        const T* x = z + r * columns + first;
        for (int64_t j = 0; j < width; ++j) sums.part[0][j] += activated(x[j], slope);
        sums.row_done(r, rows);
      }
      for (int64_t j = 0; j < width; ++j) mean[first + j] = static_cast<T>(sums.total[0][j] / rows);
    }
    {
      ColumnSums<T, 1> sums;
      T at[kColumns];
      for (int64_t j = 0; j < width; ++j) at[j] = mean[first + j];
      for (int64_t r = 0; r < rows; ++r) {
        const T* x = z + r * columns + first;
        for (int64_t j = 0; j < width; ++j) {
          const T centred = activated(x[j], slope) - at[j];
          sums.part[0][j] += centred * centred;
        }
        sums.row_done(r, rows);
      }
      for (int64_t j = 0; j < width; ++j) variance[first + j] = static_cast<T>(sums.total[0][j] / rows);
    }
    const Statistics<T> at(mean, variance, eps, first, width);
    T gain[kColumns], shift[kColumns];
    for (int64_t j = 0; j < width; ++j) {
      gain[j] = weight[first + j] * at.inverse[j];
      shift[j] = bias[first + j];
    }
    for (int64_t r = 0; r < rows; ++r) {
      const T* x = z + r * columns + first;
      T* y = out + r * columns + first;
      dropout_factors(dropout, r, first, factor);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        y[j] = factor[j] * ((activated(x[j], slope) - at.mean[j]) * gain[j] + shift[j]);
      }
    }
  }
}

template <typename T>
void act_norm_dropout_bwd(const T* grad, const T* z, const T* mean, const T* variance, const T* weight, int64_t rows,
                          int64_t columns, double slope_in, double eps, Dropout dropout, T* d_z, T* d_weight, T* d_bias,
                          int64_t begin, int64_t end) {
  const T slope = static_cast<T>(slope_in);
  T factor[kColumns];
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kColumns, width = width_of(first, columns);
    const Statistics<T> at(mean, variance, eps, first, width);
    ColumnSums<T, 2> sums;  // sums of e = factor grad and of e x̂
    for (int64_t r = 0; r < rows; ++r) {
      const T *g = grad + r * columns + first, *x = z + r * columns + first;
      T* e = d_z + r * columns + first;  // stored in d_z until the sums are complete
      dropout_factors(dropout, r, first, factor);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T unit = (activated(x[j], slope) - at.mean[j]) * at.inverse[j];
        e[j] = factor[j] * g[j];
        sums.part[0][j] += e[j];
        sums.part[1][j] += e[j] * unit;
      }
      sums.row_done(r, rows);
    }
    T gain[kColumns], e_mean[kColumns], e_along[kColumns];
    for (int64_t j = 0; j < width; ++j) {
      d_bias[first + j] = static_cast<T>(sums.total[0][j]);
      d_weight[first + j] = static_cast<T>(sums.total[1][j]);
      e_mean[j] = static_cast<T>(sums.total[0][j] / rows);
      e_along[j] = static_cast<T>(sums.total[1][j] / rows);
      gain[j] = weight[first + j] * at.inverse[j];
    }
    for (int64_t r = 0; r < rows; ++r) {
      const T* x = z + r * columns + first;
      T* e = d_z + r * columns + first;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T unit = (activated(x[j], slope) - at.mean[j]) * at.inverse[j];
        e[j] = slope_at(x[j], slope) * gain[j] * (e[j] - e_mean[j] - unit * e_along[j]);
      }
    }
  }
}

// Let e = m grad, k = leaky_relu'(z) gg_z, x̂ = (a - mean) inverse, and let P q = q - mean(q) - x̂ mean(q x̂), where means
// are over the rows. P is a symmetric projection. The derivatives are
//
//   d_e      = weight inverse P k + gg_bias + gg_weight x̂
//   d_x̂      = -weight inverse (k mean(e x̂) + e mean(k x̂)) + gg_weight e
//   d_a      = inverse P d_x̂ - weight inverse² x̂ mean(k P e)
//   d_weight = inverse Σ k P e
template <typename T>
void act_norm_dropout_bwd_bwd(const T* gg_z, const T* gg_weight, const T* gg_bias, const T* grad, const T* z,
                              const T* mean, const T* variance, const T* weight, int64_t rows, int64_t columns,
                              double slope_in, double eps, Dropout dropout, T* d_grad, T* d_z, T* d_weight,
                              int64_t begin, int64_t end) {
  const T slope = static_cast<T>(slope_in);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kColumns, width = width_of(first, columns);
    const Statistics<T> at(mean, variance, eps, first, width);
    ColumnSums<T, 5> sums;  // of e, e x̂, k, k x̂ and k e
    T factor[kColumns];
    for (int64_t r = 0; r < rows; ++r) {
      const T *h = gg_z + r * columns + first, *g = grad + r * columns + first, *x = z + r * columns + first;
      T* kept = d_grad + r * columns + first;  // d_grad stores the factors until the sums are complete
      dropout_factors(dropout, r, first, factor);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T unit = (activated(x[j], slope) - at.mean[j]) * at.inverse[j];
        const T e = factor[j] * g[j], k = slope_at(x[j], slope) * h[j];
        kept[j] = factor[j];
        sums.part[0][j] += e;
        sums.part[1][j] += e * unit;
        sums.part[2][j] += k;
        sums.part[3][j] += k * unit;
        sums.part[4][j] += k * e;
      }
      sums.row_done(r, rows);
    }
    T gain[kColumns], k_mean[kColumns], k_along[kColumns], e_along[kColumns], w_mean[kColumns], w_along[kColumns];
    T along[kColumns], add[kColumns], tilt[kColumns];
    for (int64_t j = 0; j < width; ++j) {
      const double scale = static_cast<double>(weight[first + j]) * at.inverse[j], gg = gg_weight[first + j];
      const double em = sums.total[0][j] / rows, ex = sums.total[1][j] / rows, km = sums.total[2][j] / rows;
      const double kx = sums.total[3][j] / rows, kpe = sums.total[4][j] / rows - km * em - kx * ex;
      d_weight[first + j] = static_cast<T>(at.inverse[j] * kpe * rows);
      gain[j] = static_cast<T>(scale);
      k_mean[j] = static_cast<T>(km);
      k_along[j] = static_cast<T>(kx);
      e_along[j] = static_cast<T>(ex);
      w_mean[j] = static_cast<T>(-scale * (km * ex + em * kx) + gg * em);
      w_along[j] = static_cast<T>(-2 * scale * kx * ex + gg * ex + scale * kpe);
      along[j] = at.inverse[j];
      add[j] = gg_bias[first + j];
      tilt[j] = gg_weight[first + j];
    }
    for (int64_t r = 0; r < rows; ++r) {
      const T *h = gg_z + r * columns + first, *g = grad + r * columns + first, *x = z + r * columns + first;
      T *to_grad = d_grad + r * columns + first, *to_z = d_z + r * columns + first;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T unit = (activated(x[j], slope) - at.mean[j]) * at.inverse[j], bend = slope_at(x[j], slope);
        const T e = to_grad[j] * g[j], k = bend * h[j];
        const T w = tilt[j] * e - gain[j] * (k * e_along[j] + e * k_along[j]);
        to_grad[j] *= gain[j] * (k - k_mean[j] - unit * k_along[j]) + add[j] + tilt[j] * unit;
        to_z[j] = bend * along[j] * (w - w_mean[j] - unit * w_along[j]);
      }
    }
  }
}

#define MMSSL_INSTANTIATE(T)                                                                                          \
  template void act_norm_dropout_fwd<T>(const T*, int64_t, int64_t, const T*, const T*, double, double, Dropout, T*,  \
                                        T*, T*, int64_t, int64_t);                                                    \
  template void act_norm_dropout_bwd<T>(const T*, const T*, const T*, const T*, const T*, int64_t, int64_t, double,   \
                                        double, Dropout, T*, T*, T*, int64_t, int64_t);                               \
  template void act_norm_dropout_bwd_bwd<T>(const T*, const T*, const T*, const T*, const T*, const T*, const T*,     \
                                            const T*, int64_t, int64_t, double, double, Dropout, T*, T*, T*, int64_t, \
                                            int64_t);
MMSSL_INSTANTIATE(float)
MMSSL_INSTANTIATE(double)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
