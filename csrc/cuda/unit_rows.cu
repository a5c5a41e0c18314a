// unit_rows: rows divided by their length, and the gradient.
//
// Limited by memory: forward moves 2 sizeof(T) d bytes per row and does one double multiply-add per value, and backward
// moves 3 sizeof(T) d bytes for six operations per value. A team of lanes processes a row: as many as are needed for d
// values at 16 bytes each, at most a warp. It reads the row twice, the second time from L1. Squares are computed in
// double, in which squares of floats neither overflow nor underflow. A row of doubles is divided by its largest value
// first.
#include "cuda/unit_rows.h"

#include <cfloat>

#include "cuda/packs.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 256;

// The position of a thread: one of the 2^log2 lanes of row r.
template <int kVec>
struct Place {
  int64_t r;
  int first, step;  // its columns: kVec from `first` on, then every `step`

  __device__ explicit Place(int log2)
      : r((int64_t{blockIdx.x} * kThreads + threadIdx.x) >> log2),
        first((static_cast<int>(threadIdx.x) & ((1 << log2) - 1)) * kVec),
        step(kVec << log2) {}
};

// The factor by which a row is divided before it is squared. All lanes of the warp must call it.
template <int kVec>
__device__ double divisor(const double* row, int d, const Place<kVec>& place, int lanes) {
  double largest = 0;
  for (int column = place.first; column < d; column += place.step) {
    Pack<kVec, double> x;
    x.load(row + column);
#pragma unroll
    for (int i = 0; i < kVec; ++i) largest = fabs(x[i]) > largest ? fabs(x[i]) : largest;
  }
  for (int bit = 1; bit < lanes; bit *= 2) {
    const double other = __shfl_xor_sync(kAllLanes, largest, bit);
    largest = other > largest ? other : largest;
  }
  return largest > 0 ? largest : 1;
}
template <int kVec, typename T>
__device__ double divisor(const T*, int, const Place<kVec>&, int) {
  return 1;
}

__device__ inline void at_most_largest(double x, float* y) { *y = x > FLT_MAX ? FLT_MAX : static_cast<float>(x); }
__device__ inline void at_most_largest(double x, double* y) { *y = x > DBL_MAX ? DBL_MAX : x; }

template <int kVec, typename T, typename A>
__global__ void __launch_bounds__(kThreads, 4)
    unit_rows_kernel(const T* x, int64_t n_rows, int d, T* unit, A* inverse, int lanes_log2) {
  const Place<kVec> place(lanes_log2);
  const int64_t r =
      place.r < n_rows
          ? place.r
          : n_rows - 1;  // lanes without a row repeat the last row, because all lanes must take part in the shuffles
  const T* row = x + r * d;
  const double by = divisor(row, d, place, 1 << lanes_log2);
  double square = 0;
  for (int column = place.first; column < d; column += place.step) {
    Pack<kVec, T> values;
    values.load(row + column);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const double scaled = sizeof(T) == 8 ? static_cast<double>(values[i]) / by : static_cast<double>(values[i]);
      square += scaled * scaled;
    }
  }
  square = sum_over_lanes(square, 1, 1 << lanes_log2);
  if (place.r >= n_rows) return;
  const double scale = square == 0 ? 0 : 1 / sqrt(square);
  if (place.first == 0) at_most_largest(scale / by, inverse + r);
  for (int column = place.first; column < d; column += place.step) {
    Pack<kVec, T> values;
    values.load(row + column);
    T out[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const double scaled = sizeof(T) == 8 ? static_cast<double>(values[i]) / by : static_cast<double>(values[i]);
      narrow(static_cast<A>(scaled * scale), &out[i]);
    }
    store_values(out, unit + r * d + column);
  }
}

template <int kVec, typename T, typename A>
__global__ void __launch_bounds__(kThreads, 4) unit_rows_bwd_kernel(const T* grad, const T* x, const A* inverse,
                                                                    int64_t n_rows, int d, T* x_grad, int lanes_log2) {
  const Place<kVec> place(lanes_log2);
  const int64_t r = place.r < n_rows ? place.r : n_rows - 1;
  const T *g_row = grad + r * d, *x_row = x + r * d;
  const A scale = inverse[r];
  A along = 0;
  for (int column = place.first; column < d; column += place.step) {
    Pack<kVec, T> g, values;
    g.load(g_row + column);
    values.load(x_row + column);
#pragma unroll
    for (int i = 0; i < kVec; ++i) along += g[i] * (values[i] * scale);
  }
  along = sum_over_lanes(along, 1, 1 << lanes_log2);
  if (place.r >= n_rows) return;
  for (int column = place.first; column < d; column += place.step) {
    Pack<kVec, T> g, values;
    g.load(g_row + column);
    values.load(x_row + column);
    T out[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      narrow(scale == 0 ? A(0) : scale * (g[i] - values[i] * scale * along), &out[i]);
    }
    store_values(out, x_grad + r * d + column);
  }
}

// Calls f(kVec as a constant, log2 of the lanes per row, blocks) for contiguous rows of d values of T that start at
// each of `starts`.
template <typename T, typename F, typename... Starts>
void with_layout(int64_t n_rows, int64_t d, F&& f, const Starts*... starts) {
  const auto call = [&](auto vec) {
    const int log2 = lanes_log2(d, vec);
    const int64_t per_block = kThreads >> log2;
    f(vec, log2, dim3(static_cast<unsigned>((n_rows + per_block - 1) / per_block)));
  };
  if ((rows_aligned(starts, d) && ...)) {
    call(std::integral_constant<int, kPackSize<T>>{});
  } else {
    call(std::integral_constant<int, 1>{});
  }
}

}  // namespace

template <typename T, typename A>
void unit_rows_cuda(const T* x, int64_t n_rows, int64_t d, T* unit, A* inverse, cudaStream_t stream) {
  const auto start = [&](auto vec, int log2, dim3 blocks) {
    launch("unit_rows", unit_rows_kernel<decltype(vec)::value, T, A>, blocks, dim3(kThreads), 0, stream, x, n_rows,
           static_cast<int>(d), unit, inverse, log2);
  };
  with_layout<T>(n_rows, d, start, x, unit);
}

template <typename T, typename A>
void unit_rows_bwd_cuda(const T* grad, const T* x, const A* inverse, int64_t n_rows, int64_t d, T* x_grad,
                        cudaStream_t stream) {
  const auto start = [&](auto vec, int log2, dim3 blocks) {
    launch("unit_rows_bwd", unit_rows_bwd_kernel<decltype(vec)::value, T, A>, blocks, dim3(kThreads), 0, stream, grad,
           x, inverse, n_rows, static_cast<int>(d), x_grad, log2);
  };
  with_layout<T>(n_rows, d, start, grad, x, x_grad);
}

#define MMSSL_INSTANTIATE(T, A)                                                         \
  template void unit_rows_cuda<T, A>(const T*, int64_t, int64_t, T*, A*, cudaStream_t); \
  template void unit_rows_bwd_cuda<T, A>(const T*, const T*, const A*, int64_t, int64_t, T*, cudaStream_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
