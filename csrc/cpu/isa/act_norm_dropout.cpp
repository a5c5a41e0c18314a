#include "cpu/isa/act_norm_dropout.h"

#include <initializer_list>

#include "cpu/isa/dropout_mask.h"

#define MMSSL_INLINE __attribute__((always_inline))

namespace mmssl::MMSSL_ISA {
namespace {

constexpr int64_t kColumns = kNormColumns;
constexpr int64_t kShortSum = 32;  // number of rows that are added in T before the sum is added in double
constexpr int64_t kMaskTile = 16;  // rows of the second visit of the forward pass, which makes the mask
constexpr int64_t kTile = 4;       // rows of a second visit that share the loads of the factors

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// leaky_relu'(x); leaky_relu(x) is x times this.
template <typename T>
inline MMSSL_INLINE T slope_at(T x, T slope) {
  return x > 0 ? T{1} : slope;
}

// Calls f(j) for j < width <= kColumns. Blocks of kColumns, that is all but the last one, have a loop of fixed length.
template <typename F>
inline MMSSL_INLINE void for_columns(int64_t width, F&& f) {
  if (width == kColumns) {
#pragma omp simd
    for (int64_t j = 0; j < kColumns; ++j) f(j);
  } else {
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) f(j);
  }
}

// Prefetches the part of a matrix that for_tiles visits `tile` rows after (r, first): the same row in the next block of
// columns, or in the first block of the next rows. The rows of a block lie in different pages, and the processor itself
// prefetches within few pages at a time. A block that is narrower is prefetched beyond its end, which does no harm.
template <typename T>
inline MMSSL_INLINE void prefetch_next(const NormArgs<T>& in, const T* matrix, int64_t r, int64_t first, int64_t tile) {
  const bool within = first + kColumns < in.columns;
  if (!within && r + tile >= in.rows) return;
  const T* next = matrix + (within ? r : r + tile) * in.columns + (within ? first + kColumns : 0);
  for (int64_t j = 0; j < kColumns; j += static_cast<int64_t>(64 / sizeof(T))) __builtin_prefetch(next + j, 0, 2);
}

// Calls f(first row, end row, block, first column, number of columns) for `tile` rows at a time of the chunks.
template <typename T, typename F>
inline MMSSL_INLINE void for_tiles(const NormArgs<T>& in, int64_t chunk, int64_t tile, F&& f) {
  const int64_t last = smaller((chunk + 1) * kNormRows, in.rows);
  for (int64_t row = chunk * kNormRows; row < last; row += tile) {
    for (int64_t first = 0; first < in.columns; first += kColumns) {
      f(row, smaller(row + tile, last), first / kColumns, first, smaller(kColumns, in.columns - first));
    }
  }
}

// Adds up `count` sums per column. row_sums(r, first, width, factor, sum) adds a row to sum[count][kColumns].
template <int64_t count, typename T, typename F>
inline MMSSL_INLINE void first_visit(const NormArgs<T>& in, int64_t chunk, F&& row_sums) {
  const int64_t blocks = (in.columns + kColumns - 1) / kColumns;
  double* total = in.sums + chunk * count * in.columns;
  for (int64_t i = 0; i < count * in.columns; ++i) total[i] = 0;
  for_tiles(in, chunk, kShortSum, [&](int64_t row, int64_t row_end, int64_t block, int64_t first, int64_t width) {
    T sum[count][kColumns] = {}, factor[kColumns];
    DropoutMask mask(in.dropout, first);
    for (int64_t r = row; r < row_end; ++r) {
      prefetch_next(in, in.z, r, first, kShortSum);
      prefetch_next(in, in.grad, r, first, kShortSum);
      if constexpr (count == kBwdBwdSums) prefetch_next(in, in.gg_z, r, first, kShortSum);
      const uint64_t kept = mask.row(r);
      in.masks[r * blocks + block] = kept;
      dropout_factors(kept, static_cast<T>(in.dropout.scale), factor);
      row_sums(r, first, width, factor, sum);
    }
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t j = 0; j < width; ++j) total[s * in.columns + first + j] += static_cast<double>(sum[s][j]);
    }
  });
}

// Calls f(r, first, width, factor) for the rows and blocks of columns of the chunks.
template <typename T, typename F>
inline MMSSL_INLINE void second_visit(const NormArgs<T>& in, int64_t chunk, F&& f) {
  const int64_t blocks = (in.columns + kColumns - 1) / kColumns;
  for_tiles(in, chunk, kTile, [&](int64_t row, int64_t row_end, int64_t block, int64_t first, int64_t width) {
    T factor[kColumns];
    for (int64_t r = row; r < row_end; ++r) {
      dropout_factors(in.masks[r * blocks + block], static_cast<T>(in.dropout.scale), factor);
      f(r, first, width, factor);
    }
  });
}

// Adds up the chunks in their order, into the sums of the first one.
template <int64_t count, typename T>
inline void add_chunks(const NormArgs<T>& in) {
  const int64_t n = count * in.columns;
  for (int64_t row = kNormRows; row < in.rows; row += kNormRows) {
    const double* chunk = in.sums + row / kNormRows * n;
    for (int64_t i = 0; i < n; ++i) in.sums[i] += chunk[i];
  }
}

// The factors of the second derivative: 1 / sqrt(variance + eps), and those of k, 1 and x̂ in d_e, the last of which is
// also that of e in d_x̂, and those of k, 1 and x̂ in P d_x̂.
template <typename T>
struct BwdBwdFactors {
  T *inverse, *gain, *level, *tilt, *z_gain, *z_level, *z_tilt;

  BwdBwdFactors(const NormArgs<T>& in, int64_t first) {
    T* next = in.factors + first;
    for (T** each : {&inverse, &gain, &level, &tilt, &z_gain, &z_level, &z_tilt}) {
      *each = next;
      next += in.columns;
    }
  }
};

template <typename T>
inline T inverse_of(const NormArgs<T>& in, int64_t j) {
  return static_cast<T>(1 / __builtin_sqrt(static_cast<double>(in.variance[j]) + in.eps));
}

// Combines the means and the sums of squares about the mean of n and m rows in the former (Chan, Golub, LeVeque 1979).
template <typename T>
inline void combine(int64_t columns, double n, double* mean, double* square, double m, const T* other,
                    const T* other_square) {
  const double share = m / (n + m), size = n * share;
#pragma omp simd
  for (int64_t j = 0; j < columns; ++j) {
    const double apart = static_cast<double>(other[j]) - mean[j];
    mean[j] += apart * share;
    square[j] += static_cast<double>(other_square[j]) + apart * apart * size;
  }
}

}  // namespace

template <typename T>
void act_norm_dropout_fwd_sums(const NormArgs<T>& in, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  double *mean = in.sums + chunk * kFwdSums * in.columns, *square = mean + in.columns;
  for (int64_t i = 0; i < kFwdSums * in.columns; ++i) mean[i] = 0;
  for_tiles(in, chunk, kShortSum, [&](int64_t row, int64_t row_end, int64_t, int64_t first, int64_t width) {
    T sum[kColumns] = {}, at[kColumns], squares[kColumns] = {};
    for (int64_t r = row; r < row_end; ++r) {
      const T* x = in.z + r * in.columns + first;
      for_columns(width, [&](int64_t j) MMSSL_INLINE { sum[j] += x[j] * slope_at(x[j], slope); });
    }
    const T rows = static_cast<T>(row_end - row);
    for (int64_t j = 0; j < width; ++j) at[j] = sum[j] / rows;
    for (int64_t r = row; r < row_end; ++r) {
      const T* x = in.z + r * in.columns + first;
      for_columns(width, [&](int64_t j) MMSSL_INLINE {
        const T centred = x[j] * slope_at(x[j], slope) - at[j];
        squares[j] += centred * centred;
      });
    }
    const double before = static_cast<double>(row - chunk * kNormRows), now = static_cast<double>(row_end - row);
    combine(width, before, mean + first, square + first, now, at, squares);
  });
}

template <typename T>
void act_norm_dropout_fwd_factors(const NormArgs<T>& in, T* mean, T* variance) {
  double *total = in.sums, *square = total + in.columns;
  for (int64_t row = kNormRows; row < in.rows; row += kNormRows) {
    const double* chunk = in.sums + row / kNormRows * kFwdSums * in.columns;
    const double now = static_cast<double>(smaller(kNormRows, in.rows - row));
    combine(in.columns, static_cast<double>(row), total, square, now, chunk, chunk + in.columns);
  }
  for (int64_t j = 0; j < in.columns; ++j) {
    mean[j] = static_cast<T>(total[j]);
    variance[j] = static_cast<T>(square[j] / static_cast<double>(in.rows));
    in.factors[j] = in.weight[j] * inverse_of(in, j);
  }
}

template <typename T>
void act_norm_dropout_fwd_apply(const NormArgs<T>& in, const T* bias, T* out, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  for_tiles(in, chunk, kMaskTile, [&](int64_t row, int64_t row_end, int64_t, int64_t first, int64_t width) {
    T factor[kColumns];
    DropoutMask mask(in.dropout, first);
    const T *mean = in.mean + first, *gain = in.factors + first, *shift = bias + first;
    for (int64_t r = row; r < row_end; ++r) {
      prefetch_next(in, in.z, r, first, kMaskTile);
      const uint64_t kept = mask.row(r);
      dropout_factors(kept, static_cast<T>(in.dropout.scale), factor);
      const T* x = in.z + r * in.columns + first;
      T* y = out + r * in.columns + first;
      for_columns(width, [&](int64_t j) MMSSL_INLINE {
        y[j] = factor[j] * ((x[j] * slope_at(x[j], slope) - mean[j]) * gain[j] + shift[j]);
      });
    }
  });
}

template <typename T>
void act_norm_dropout_bwd_prepare(const NormArgs<T>& in) {
  for (int64_t j = 0; j < in.columns; ++j) in.factors[j] = inverse_of(in, j);
}

// The sums of e = m grad and of e x̂.
template <typename T>
void act_norm_dropout_bwd_sums(const NormArgs<T>& in, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  first_visit<kBwdSums>(in, chunk,
                        [&](int64_t r, int64_t first, int64_t width, const T* factor, T(*sum)[kColumns]) MMSSL_INLINE {
                          const T *g = in.grad + r * in.columns + first, *x = in.z + r * in.columns + first;
                          const T *mean = in.mean + first, *inverse = in.factors + first;
                          for_columns(width, [&](int64_t j) MMSSL_INLINE {
                            const T unit = (x[j] * slope_at(x[j], slope) - mean[j]) * inverse[j], e = factor[j] * g[j];
                            sum[0][j] += e;
                            sum[1][j] += e * unit;
                          });
                        });
}

template <typename T>
void act_norm_dropout_bwd_factors(const NormArgs<T>& in, T* d_weight, T* d_bias) {
  add_chunks<kBwdSums>(in);
  const double rows = static_cast<double>(in.rows);
  T *inverse = in.factors, *gain = inverse + in.columns, *level = gain + in.columns, *tilt = level + in.columns;
  for (int64_t j = 0; j < in.columns; ++j) {
    const double e = in.sums[j], e_along = in.sums[in.columns + j];
    d_bias[j] = static_cast<T>(e);
    d_weight[j] = static_cast<T>(e_along);
    const double scale = static_cast<double>(in.weight[j]) * inverse[j];
    gain[j] = static_cast<T>(scale);
    level[j] = static_cast<T>(scale * e / rows);
    tilt[j] = static_cast<T>(scale * e_along / rows);
  }
}

template <typename T>
void act_norm_dropout_bwd_apply(const NormArgs<T>& in, T* d_z, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  second_visit(in, chunk, [&](int64_t r, int64_t first, int64_t width, const T* factor) MMSSL_INLINE {
    const T *g = in.grad + r * in.columns + first, *x = in.z + r * in.columns + first, *mean = in.mean + first;
    const T *inverse = in.factors + first, *gain = inverse + in.columns, *level = gain + in.columns;
    const T* tilt = level + in.columns;
    T* to_z = d_z + r * in.columns + first;
    for_columns(width, [&](int64_t j) MMSSL_INLINE {
      const T bend = slope_at(x[j], slope), unit = (x[j] * bend - mean[j]) * inverse[j];
      to_z[j] = bend * (gain[j] * (factor[j] * g[j]) - level[j] - unit * tilt[j]);
    });
  });
}

// Let e = m grad, k = leaky_relu'(z) gg_z, x̂ = (a - mean) inverse, and let P q = q - mean(q) - x̂ mean(q x̂), where means
// are over the rows. P is a symmetric projection. The derivatives are
//
//   d_e      = weight inverse P k + gg_bias + gg_weight x̂
//   d_x̂      = -weight inverse (k mean(e x̂) + e mean(k x̂)) + gg_weight e
//   d_a      = inverse P d_x̂ - weight inverse² x̂ mean(k P e)
//   d_weight = inverse Σ k P e
//
// The sums are those of e, e x̂, k, k x̂ and k e.
template <typename T>
void act_norm_dropout_bwd_bwd_sums(const NormArgs<T>& in, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  first_visit<kBwdBwdSums>(
      in, chunk, [&](int64_t r, int64_t first, int64_t width, const T* factor, T(*sum)[kColumns]) MMSSL_INLINE {
        const T *h = in.gg_z + r * in.columns + first, *g = in.grad + r * in.columns + first;
        const T *x = in.z + r * in.columns + first, *mean = in.mean + first, *inverse = in.factors + first;
        for_columns(width, [&](int64_t j) MMSSL_INLINE {
          const T bend = slope_at(x[j], slope), unit = (x[j] * bend - mean[j]) * inverse[j];
          const T e = factor[j] * g[j], k = bend * h[j];
          sum[0][j] += e;
          sum[1][j] += e * unit;
          sum[2][j] += k;
          sum[3][j] += k * unit;
          sum[4][j] += k * e;
        });
      });
}

template <typename T>
void act_norm_dropout_bwd_bwd_factors(const NormArgs<T>& in, const T* gg_weight, const T* gg_bias, T* d_weight) {
  add_chunks<kBwdBwdSums>(in);
  const double rows = static_cast<double>(in.rows);
  const BwdBwdFactors<T> to(in, 0);
  for (int64_t j = 0; j < in.columns; ++j) {
    double total[kBwdBwdSums];
    for (int64_t s = 0; s < kBwdBwdSums; ++s) total[s] = in.sums[s * in.columns + j];
    const double scale = static_cast<double>(in.weight[j]) * to.inverse[j], gg = gg_weight[j];
    const double em = total[0] / rows, ex = total[1] / rows, km = total[2] / rows, kx = total[3] / rows;
    const double kpe = total[4] / rows - km * em - kx * ex;
    d_weight[j] = static_cast<T>(to.inverse[j] * kpe * rows);
    to.gain[j] = static_cast<T>(scale);
    to.level[j] = static_cast<T>(gg_bias[j] - scale * km);
    to.tilt[j] = static_cast<T>(gg - scale * kx);
    to.z_gain[j] = static_cast<T>(-scale * ex);
    to.z_level[j] = static_cast<T>(scale * (km * ex + em * kx) - gg * em);
    to.z_tilt[j] = static_cast<T>(2 * scale * kx * ex - gg * ex - scale * kpe);
  }
}

template <typename T>
void act_norm_dropout_bwd_bwd_apply(const NormArgs<T>& in, T* d_grad, T* d_z, int64_t chunk) {
  const T slope = static_cast<T>(in.slope);
  second_visit(in, chunk, [&](int64_t r, int64_t first, int64_t width, const T* factor) MMSSL_INLINE {
    const T *h = in.gg_z + r * in.columns + first, *g = in.grad + r * in.columns + first;
    const T *x = in.z + r * in.columns + first, *mean = in.mean + first;
    const BwdBwdFactors<T> by(in, first);
    T *to_grad = d_grad + r * in.columns + first, *to_z = d_z + r * in.columns + first;
    for_columns(width, [&](int64_t j) MMSSL_INLINE {
      const T bend = slope_at(x[j], slope), unit = (x[j] * bend - mean[j]) * by.inverse[j];
      const T e = factor[j] * g[j], k = bend * h[j];
      to_grad[j] = factor[j] * (by.gain[j] * k + by.level[j] + by.tilt[j] * unit);
      to_z[j] = bend * by.inverse[j] * (by.tilt[j] * e + by.z_gain[j] * k + by.z_level[j] + by.z_tilt[j] * unit);
    });
  });
}

#define MMSSL_INSTANTIATE(T)                                                                     \
  template void act_norm_dropout_fwd_sums<T>(const NormArgs<T>&, int64_t);                       \
  template void act_norm_dropout_fwd_factors<T>(const NormArgs<T>&, T*, T*);                     \
  template void act_norm_dropout_fwd_apply<T>(const NormArgs<T>&, const T*, T*, int64_t);        \
  template void act_norm_dropout_bwd_prepare<T>(const NormArgs<T>&);                             \
  template void act_norm_dropout_bwd_sums<T>(const NormArgs<T>&, int64_t);                       \
  template void act_norm_dropout_bwd_factors<T>(const NormArgs<T>&, T*, T*);                     \
  template void act_norm_dropout_bwd_apply<T>(const NormArgs<T>&, T*, int64_t);                  \
  template void act_norm_dropout_bwd_bwd_sums<T>(const NormArgs<T>&, int64_t);                   \
  template void act_norm_dropout_bwd_bwd_factors<T>(const NormArgs<T>&, const T*, const T*, T*); \
  template void act_norm_dropout_bwd_bwd_apply<T>(const NormArgs<T>&, T*, T*, int64_t);
MMSSL_INSTANTIATE(float)
MMSSL_INSTANTIATE(double)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::MMSSL_ISA
