// gumbel_softmax: the rows of equation 5 as a matrix.
//
// A block computes the scores of a row in shared memory, reduces and exponentiates them there, and writes the row once.
// If there is a product zeta u vT, it is read once. An entry takes about 75 issue slots (2.6 ps on an H100, see
// gumbel_rows.cu) and 4 bytes (1.2 ps), or 8 bytes with a product, so the kernel is limited by arithmetic. Rows that
// are too long for shared memory are computed by gumbel_lse and gumbel_tile, which generate the noise twice, and scaled
// by row_l2, which reads them twice (the second time mostly from L2) and writes them.
//
// cuBLAS computes the product and writes it to `rows` beforehand. 2 d operations per entry should use tensor cores, and
// fusing the product with this kernel would save 8 of 12 bytes per entry, but the noise takes longer than all 12 bytes.
#include "cuda/gumbel_softmax.h"

#include <cmath>
#include <cstdint>

#include "cuda/gumbel_noise.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 512;

// The sum of `mine` over the block, which every thread gets.
__device__ double block_sum(double mine, double* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) mine += __shfl_xor_sync(kAllLanes, mine, step);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

template <typename T>
__device__ T block_max(T mine, T* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) mine = max(mine, __shfl_xor_sync(kAllLanes, mine, step));
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  T top = scratch[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) top = max(top, scratch[w]);
  __syncthreads();
  return top;
}

template <typename T>
__device__ T inverse_length(double square) {
  return square > 0 ? static_cast<T>(1 / sqrt(square)) : T(0);
}

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads) gumbel_softmax_kernel(GumbelBatch<Index> batch, bool accumulate, bool l2,
                                                                  T* rows,        // [B, I]
                                                                  T* inv_norm) {  // [B]
  MMSSL_DYNAMIC_SHARED(T, weight);                                                // [I], rounded up to a multiple of 4
  __shared__ double sums[kThreads / kWarp];
  __shared__ T tops[kThreads / kWarp];
  const int64_t user = user_of(batch, blockIdx.x);
  const RowNoise noise = row_noise(batch, user);
  const SeenItems<Index> seen = seen_items(batch, user);
  const int n_items = static_cast<int>(batch.n_items);
  const T scale = static_cast<T>(batch.noise_scale), inv_tau = static_cast<T>(1 / batch.tau);
  T* const row = rows + blockIdx.x * batch.n_items;

  T top = -static_cast<T>(INFINITY);
  for (int column = 4 * threadIdx.x; column < n_items; column += 4 * blockDim.x) {
    const Four<T> score = four_scores(noise, column / 4, scale, 0u);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (column + j < n_items) top = max(top, score.value[j]);
    }
    *reinterpret_cast<Four<T>*>(weight + column) = score;
  }
  __syncthreads();
  for (int64_t e = threadIdx.x; e < seen.n; e += blockDim.x) {
    const int64_t item = seen[e];
    MMSSL_DEVICE_CHECK(0 <= item && item < n_items);
    top = max(top, weight[item] += T(1));
  }
  top = block_max(top, tops);

  double sum = 0;
  for (int i = threadIdx.x; i < n_items; i += blockDim.x) sum += weight[i] = exp_of((weight[i] - top) * inv_tau);
  const T share = static_cast<T>(1 / block_sum(sum, sums));

  double square = 0;
  for (int i = threadIdx.x; i < n_items; i += blockDim.x) {
    const T value = weight[i] * share + (accumulate ? row[i] : T(0));
    if (l2) {
      weight[i] = value;
      square += static_cast<double>(value) * value;
    } else {
      row[i] = value;
    }
  }
  T inverse = 1;
  if (l2) {
    inverse = inverse_length<T>(block_sum(square, sums));
    for (int i = threadIdx.x; i < n_items; i += blockDim.x) row[i] = weight[i] * inverse;
  }
  if (threadIdx.x == 0) inv_norm[blockIdx.x] = inverse;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) row_l2_kernel(int64_t n_items,
                                                          T* rows,        // [B, I]
                                                          T* inv_norm) {  // [B]
  __shared__ double sums[kThreads / kWarp];
  T* const row = rows + blockIdx.x * n_items;
  double square = 0;
  for (int64_t i = threadIdx.x; i < n_items; i += blockDim.x) square += static_cast<double>(row[i]) * row[i];
  const T inverse = inverse_length<T>(block_sum(square, sums));
  for (int64_t i = threadIdx.x; i < n_items; i += blockDim.x) row[i] *= inverse;
  if (threadIdx.x == 0) inv_norm[blockIdx.x] = inverse;
}

// One warp per row.
template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads) scatter_rows_kernel(int64_t n_rows, int64_t n_items,
                                                                const int64_t* crow,  // [B + 1]
                                                                const Index* col,     // [crow[B]]
                                                                const float* value,   // [crow[B]]
                                                                T* rows,              // [B, I]
                                                                T* inv_norm) {        // [B] or nullptr
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= n_rows) return;
  T inverse = 1;
  if (inv_norm != nullptr) {
    double square = 0;
    for (int64_t e = crow[row] + lane; e < crow[row + 1]; e += kWarp)
      square += static_cast<double>(value[e]) * value[e];
    for (int step = kWarp / 2; step > 0; step /= 2) square += __shfl_xor_sync(kAllLanes, square, step);
    inverse = inverse_length<T>(square);
    if (lane == 0) inv_norm[row] = inverse;
  }
  for (int64_t e = crow[row] + lane; e < crow[row + 1]; e += kWarp) {
    const int64_t item = static_cast<int64_t>(col[e]);
    MMSSL_DEVICE_CHECK(0 <= item && item < n_items);
    rows[row * n_items + item] += static_cast<T>(value[e]) * inverse;
  }
}

}  // namespace

template <typename T, typename Index>
void launch_gumbel_softmax(const GumbelBatch<Index>& batch, bool accumulate, bool l2, T* rows, T* inv_norm,
                           cudaStream_t stream) {
  // With long rows, only two blocks fit a multiprocessor, so the blocks need more threads.
  const int threads = batch.n_items <= 8192 ? kThreads / 2 : kThreads;
  launch("gumbel_softmax", gumbel_softmax_kernel<T, Index>, dim3(static_cast<unsigned>(batch.n_rows)), dim3(threads),
         static_cast<size_t>((batch.n_items + 3) / 4 * 4) * sizeof(T), stream, batch, accumulate, l2, rows, inv_norm);
}

template <typename T>
void launch_row_l2(int64_t n_rows, int64_t n_items, T* rows, T* inv_norm, cudaStream_t stream) {
  launch("row_l2", row_l2_kernel<T>, dim3(static_cast<unsigned>(n_rows)), dim3(kThreads), 0, stream, n_items, rows,
         inv_norm);
}

template <typename T, typename Index>
void launch_scatter_rows(int64_t n_rows, int64_t n_items, const int64_t* crow, const Index* col, const float* value,
                         T* rows, T* inv_norm, cudaStream_t stream) {
  constexpr int kWarps = kThreads / kWarp;
  launch("scatter_rows", scatter_rows_kernel<T, Index>, dim3(static_cast<unsigned>((n_rows + kWarps - 1) / kWarps)),
         dim3(kThreads), 0, stream, n_rows, n_items, crow, col, value, rows, inv_norm);
}

#define MMSSL_INSTANTIATE(T, Index)                                                                                 \
  template void launch_gumbel_softmax<T, Index>(const GumbelBatch<Index>&, bool, bool, T*, T*, cudaStream_t);       \
  template void launch_scatter_rows<T, Index>(int64_t, int64_t, const int64_t*, const Index*, const float*, T*, T*, \
                                              cudaStream_t);
MMSSL_INSTANTIATE(float, int32_t)
MMSSL_INSTANTIATE(float, int64_t)
MMSSL_INSTANTIATE(double, int32_t)
MMSSL_INSTANTIATE(double, int64_t)
#undef MMSSL_INSTANTIATE
template void launch_row_l2<float>(int64_t, int64_t, float*, float*, cudaStream_t);
template void launch_row_l2<double>(int64_t, int64_t, double*, double*, cudaStream_t);

}  // namespace mmssl::cuda
