#include "cpu/isa/gumbel_rows.h"

#include "cpu/isa/gumbel_noise.h"
#include "cpu/isa/gumbel_weights.h"

namespace mmssl::MMSSL_ISA {
namespace {

inline float exponential(float x) { return exp_f32(x); }
inline double exponential(double x) { return __builtin_exp(x); }

// score[j] = A + s g for column `column + j`, j < width <= 256. Returns the largest score. `entry` is the first entry
// of the row at or after `column`, and is moved behind the last of these columns.
template <typename T, typename Index>
T row_scores(const GumbelNoise& noise, PhiloxKey key, uint32_t row, int64_t column, int64_t width, const Index* col,
             int64_t* entry, int64_t last_entry, T* score) {
  T top = 0;  // without noise: an unseen item's score
  if (noise.noise_scale == 0) {
    for (int64_t j = 0; j < width; ++j) score[j] = 0;
  } else {
    alignas(64) float g[kNoiseColumns];
    gumbel_noise(key, column, width, row, noise.offset, g);
    const T scale = static_cast<T>(noise.noise_scale);
    top = scale * static_cast<T>(g[0]);
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < width; ++j) {
      score[j] = scale * static_cast<T>(g[j]);
      top = score[j] > top ? score[j] : top;
    }
  }
  int64_t e = *entry;
  for (; e < last_entry && static_cast<int64_t>(col[e]) < column + width; ++e) {
    T& seen = score[static_cast<int64_t>(col[e]) - column];
    seen += T{1};
    top = seen > top ? seen : top;
  }
  *entry = e;
  return top;
}

// weight[j] = exp((score[j] - top) / tau). Returns the sum of the weights.
template <typename T>
T exponentials(const T* score, int64_t width, T top, T inv_tau, T* weight) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) {
    const T w = exponential((score[j] - top) * inv_tau);
    weight[j] = w;
    sum += w;
  }
  return sum;
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// weight[i] = exp((A + s g - largest score of the row) / tau), in two passes, for any parameters. Returns the sum of
// the weights.
template <typename T, typename Index>
double any_weights(const GumbelNoise& noise, PhiloxKey key, uint32_t user, int64_t n_items, const Index* col,
                   int64_t entry, int64_t last_entry, T* weight) {
  T top = -static_cast<T>(__builtin_inf());
  for (int64_t column = 0; column < n_items; column += kNoiseColumns) {
    const int64_t width = smaller(kNoiseColumns, n_items - column);
    const T block_top = row_scores(noise, key, user, column, width, col, &entry, last_entry, weight + column);
    top = block_top > top ? block_top : top;
  }
  const T inv_tau = static_cast<T>(1 / noise.tau);
  double sum = 0;
  for (int64_t column = 0; column < n_items; column += kNoiseColumns) {
    const int64_t width = smaller(kNoiseColumns, n_items - column);
    sum += exponentials(weight + column, width, top, inv_tau, weight + column);
  }
  return sum;
}

// The same weights up to a common factor, in one pass, if gumbel_weights supports the parameters. The weight of a seen
// item has the additional factor e^(1 / tau).
template <typename Index>
double moderate_weights(const GumbelNoise& noise, PhiloxKey key, uint32_t user, int64_t n_items, const Index* col,
                        int64_t entry, int64_t last_entry, float* weight) {
  double sum = gumbel_weights(key, user, noise.offset, noise.noise_scale / noise.tau, n_items, weight);
  const float more = static_cast<float>(__builtin_exp(1 / noise.tau));
  for (; entry < last_entry; ++entry) {
    float& seen = weight[static_cast<int64_t>(col[entry])];
    sum -= seen;
    seen *= more;
    sum += seen;
  }
  return sum;
}

// Divides the row by its length. Returns 1 / length, or 0 for a zero row.
template <typename T>
T scale_to_length_one(T* row, int64_t n_items) {
  double square = 0;
  for (int64_t column = 0; column < n_items; column += kNoiseColumns) {
    const int64_t stop = column + smaller(kNoiseColumns, n_items - column);
    T partial = 0;
#pragma omp simd reduction(+ : partial)
    for (int64_t i = column; i < stop; ++i) partial += row[i] * row[i];
    square += partial;
  }
  const T inv_norm = square > 0 ? static_cast<T>(1 / __builtin_sqrt(square)) : T{0};
  for (int64_t j = 0; j < n_items; ++j) row[j] *= inv_norm;
  return inv_norm;
}

}  // namespace

template <typename Index>
void gumbel_lse(GumbelNoise noise, const int64_t* crow, const Index* col, const int64_t* users, int64_t n_items,
                double* lse, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(noise.seed);
  const float inv_tau = static_cast<float>(1 / noise.tau);
  alignas(64) float score[kNoiseColumns];
  for (int64_t r = begin; r < end; ++r) {
    int64_t entry = crow[users[r]];
    float top = -__builtin_inff();
    double sum = 0;
    for (int64_t column = 0; column < n_items; column += kNoiseColumns) {
      const int64_t width = smaller(kNoiseColumns, n_items - column);
      const float block_top = row_scores(noise, key, static_cast<uint32_t>(users[r]), column, width, col, &entry,
                                         crow[users[r] + 1], score);
      if (block_top > top) {
        sum *= exponential((static_cast<double>(top) - block_top) / noise.tau);
        top = block_top;
      }
      sum += exponentials(score, width, top, inv_tau, score);
    }
    lse[r] = top / noise.tau + __builtin_log(sum);
  }
}

template <typename Index>
void gumbel_tile(GumbelNoise noise, const int64_t* crow, const Index* col, const int64_t* users, const double* lse,
                 int64_t first, int64_t last, float* out, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(noise.seed);
  const float inv_tau = static_cast<float>(1 / noise.tau);
  alignas(64) float score[kNoiseColumns];
  for (int64_t r = begin; r < end; ++r) {
    // tau lse as the sum of two floats. Near the maximum of the row, where the entries are largest, score - high is
    // exact.
    const double level = lse[r] * noise.tau;
    const float high = static_cast<float>(level);
    const float low = static_cast<float>((level - high) / noise.tau);
    float* row = out + r * (last - first);
    int64_t column = first / kPhiloxColumns * kPhiloxColumns;
    int64_t entry = crow[users[r]], after = crow[users[r] + 1];
    while (entry < after) {  // finds the first entry of the row at or after `column`
      const int64_t middle = entry + (after - entry) / 2;
      if (static_cast<int64_t>(col[middle]) < column) {
        entry = middle + 1;
      } else {
        after = middle;
      }
    }
    for (; column < last; column += kNoiseColumns) {
      const int64_t width = smaller(kNoiseColumns, last - column);
      row_scores(noise, key, static_cast<uint32_t>(users[r]), column, width, col, &entry, crow[users[r] + 1], score);
      const int64_t skip = column < first ? first - column : 0;
      for (int64_t j = 0; j < width; ++j) score[j] = exp_f32((score[j] - high) * inv_tau - low);
      for (int64_t j = skip; j < width; ++j) row[column + j - first] = score[j];
    }
  }
}

template <typename T, typename Index>
void gumbel_softmax(GumbelNoise noise, const int64_t* crow, const Index* col, const int64_t* users, int64_t n_items,
                    bool accumulate, bool l2, T* rows, T* inv_norm, T* scratch, int64_t begin, int64_t end) {
  const PhiloxKey key = philox_key(noise.seed);
  const bool moderate = noise.noise_scale > 0 && 25 * noise.noise_scale + 1 <= 80 * noise.tau;
  for (int64_t r = begin; r < end; ++r) {
    T* row = rows + r * n_items;
    T* weight = accumulate ? scratch : row;
    const int64_t first = crow[users[r]], last = crow[users[r] + 1];
    double sum = 0;
    if constexpr (sizeof(T) == sizeof(float)) {
      sum = moderate ? moderate_weights(noise, key, static_cast<uint32_t>(users[r]), n_items, col, first, last, weight)
                     : any_weights(noise, key, static_cast<uint32_t>(users[r]), n_items, col, first, last, weight);
    } else {
      sum = any_weights(noise, key, static_cast<uint32_t>(users[r]), n_items, col, first, last, weight);
    }
    const T scale = static_cast<T>(1 / sum);
    if (accumulate) {
      for (int64_t i = 0; i < n_items; ++i) row[i] += weight[i] * scale;
    } else {
      for (int64_t i = 0; i < n_items; ++i) row[i] *= scale;
    }
    inv_norm[r] = l2 ? scale_to_length_one(row, n_items) : T{1};
  }
}

template <typename T>
void row_l2(int64_t n_items, T* rows, T* inv_norm, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) inv_norm[r] = scale_to_length_one(rows + r * n_items, n_items);
}

#define MMSSL_INSTANTIATE(Index)                                                                                       \
  template void gumbel_lse<Index>(GumbelNoise, const int64_t*, const Index*, const int64_t*, int64_t, double*,         \
                                  int64_t, int64_t);                                                                   \
  template void gumbel_tile<Index>(GumbelNoise, const int64_t*, const Index*, const int64_t*, const double*, int64_t,  \
                                   int64_t, float*, int64_t, int64_t);                                                 \
  template void gumbel_softmax<float, Index>(GumbelNoise, const int64_t*, const Index*, const int64_t*, int64_t, bool, \
                                             bool, float*, float*, float*, int64_t, int64_t);                          \
  template void gumbel_softmax<double, Index>(GumbelNoise, const int64_t*, const Index*, const int64_t*, int64_t,      \
                                              bool, bool, double*, double*, double*, int64_t, int64_t);
MMSSL_INSTANTIATE(int32_t)
MMSSL_INSTANTIATE(int64_t)
#undef MMSSL_INSTANTIATE
template void row_l2<float>(int64_t, float*, float*, int64_t, int64_t);
template void row_l2<double>(int64_t, double*, double*, int64_t, int64_t);

}  // namespace mmssl::MMSSL_ISA
