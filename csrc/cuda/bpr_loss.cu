// bpr_loss: the terms of equation 14, and their gradients, summed in a fixed order without atomics.
//
// Forward: one warp per triple reads three rows of d values and writes two numbers. 3 d operations for 12 d bytes are
// limited by memory: 1024 triples of 64 floats are 0.8 MB, which takes 0.3 us at 3.35 TB/s. The latency of the reads,
// about 2 us, is longer.
//
// Backward: the ids are sorted. There is one warp per entry. The warp at the first entry of an id iterates over the
// entries of this id in order, adds 128 columns at a time in registers, and writes the row once. The other warps exit.
// Every triple reads two rows for its user and one for each of its two items, so 4 d values. The rest of the dense
// gradient, U d + I d values, is written as zeros, and is usually most of the traffic.
#include "cuda/bpr_loss.h"

#include <cmath>
#include <cstdint>

#include "cuda/packs.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 4;  // per lane, kWarp apart

__device__ float exp_of(float x) { return expf(x); }
__device__ double exp_of(double x) { return exp(x); }
__device__ float log1p_of(float x) { return log1pf(x); }
__device__ double log1p_of(double x) { return log1p(x); }

template <typename T>
__device__ const T* row_of(const T* table, int64_t row, int64_t n_rows, int64_t stride) {
  MMSSL_DEVICE_CHECK(0 <= row && row < n_rows);
  return table + row * stride;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) bpr_loss_kernel(BprBatch<T> batch,
                                                            wide_t<T>* loss,     // [batch]
                                                            wide_t<T>* slope) {  // [batch]
  using A = wide_t<T>;
  const int64_t b = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (b >= batch.batch) return;
  const T* u = row_of(batch.user_emb, batch.users[b], batch.n_users, batch.user_stride);
  const T* p = row_of(batch.item_emb, batch.pos[b], batch.n_items, batch.item_stride);
  const T* n = row_of(batch.item_emb, batch.neg[b], batch.n_items, batch.item_stride);
  A margin = 0;  // computed from the difference, which avoids cancellation for similar items
  for (int64_t j = lane; j < batch.d; j += kWarp) margin += widen(u[j]) * (widen(p[j]) - widen(n[j]));
  for (int step = kWarp / 2; step > 0; step /= 2) margin += __shfl_xor_sync(kAllLanes, margin, step);
  if (lane != 0) return;
  const A small = exp_of(margin < 0 ? margin : -margin);  // exp(-|m|), which does not overflow
  slope[b] = -(margin < 0 ? A(1) : small) / (A(1) + small);
  loss[b] = (margin < 0 ? -margin : A(0)) + log1p_of(small);
}

// grad[id] is the sum of addend(place, column) over the entries of the id.
template <typename T, typename Addend>
__device__ void sum_segment(const int64_t* sorted, const int64_t* order, int64_t n_entries, int64_t n_rows, int64_t d,
                            T* grad, Addend addend) {
  using A = wide_t<T>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (first >= n_entries) return;
  const int64_t id = sorted[first];
  MMSSL_DEVICE_CHECK(0 <= id && id < n_rows);
  if (first > 0 && sorted[first - 1] == id) return;
  for (int64_t start = lane; start < d; start += kWarp * kColumns) {
    A sum[kColumns] = {};
    for (int64_t k = first; k < n_entries && sorted[k] == id; ++k) {
      const int64_t place = order[k];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (start + c * kWarp < d) sum[c] += addend(place, start + c * kWarp);
      }
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (start + c * kWarp < d) narrow(sum[c], grad + id * d + start + c * kWarp);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 4) bpr_user_grad_kernel(BprBatch<T> batch, const wide_t<T>* slope,
                                                                    const int64_t* sorted,  // [batch]
                                                                    const int64_t* order,   // [batch]
                                                                    T* grad) {              // [n_users, d]
  sum_segment(sorted, order, batch.batch, batch.n_users, batch.d, grad, [&](int64_t b, int64_t j) {
    const T* p = row_of(batch.item_emb, batch.pos[b], batch.n_items, batch.item_stride);
    const T* n = row_of(batch.item_emb, batch.neg[b], batch.n_items, batch.item_stride);
    return slope[b] * (widen(p[j]) - widen(n[j]));
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 4) bpr_item_grad_kernel(BprBatch<T> batch, const wide_t<T>* slope,
                                                                    const int64_t* sorted,  // [2 batch]
                                                                    const int64_t* order,   // [2 batch]
                                                                    T* grad) {              // [n_items, d]
  sum_segment(sorted, order, 2 * batch.batch, batch.n_items, batch.d, grad, [&](int64_t place, int64_t j) {
    const bool positive = place < batch.batch;
    const int64_t b = positive ? place : place - batch.batch;
    const T* u = row_of(batch.user_emb, batch.users[b], batch.n_users, batch.user_stride);
    return (positive ? slope[b] : -slope[b]) * widen(u[j]);
  });
}

dim3 blocks_of(int64_t warps) {
  constexpr int64_t kWarps = kThreads / kWarp;
  return dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps));
}

}  // namespace

template <typename T, typename A>
void launch_bpr_loss(const BprBatch<T>& batch, A* loss, A* slope, cudaStream_t stream) {
  launch("bpr_loss", bpr_loss_kernel<T>, blocks_of(batch.batch), dim3(kThreads), 0, stream, batch, loss, slope);
}

template <typename T, typename A>
void launch_bpr_user_grad(const BprBatch<T>& batch, const A* slope, const int64_t* sorted, const int64_t* order,
                          T* grad, cudaStream_t stream) {
  launch("bpr_user_grad", bpr_user_grad_kernel<T>, blocks_of(batch.batch), dim3(kThreads), 0, stream, batch, slope,
         sorted, order, grad);
}

template <typename T, typename A>
void launch_bpr_item_grad(const BprBatch<T>& batch, const A* slope, const int64_t* sorted, const int64_t* order,
                          T* grad, cudaStream_t stream) {
  launch("bpr_item_grad", bpr_item_grad_kernel<T>, blocks_of(2 * batch.batch), dim3(kThreads), 0, stream, batch, slope,
         sorted, order, grad);
}

#define MMSSL_INSTANTIATE(T, A)                                                                              \
  template void launch_bpr_loss<T, A>(const BprBatch<T>&, A*, A*, cudaStream_t);                             \
  template void launch_bpr_user_grad<T, A>(const BprBatch<T>&, const A*, const int64_t*, const int64_t*, T*, \
                                           cudaStream_t);                                                    \
  template void launch_bpr_item_grad<T, A>(const BprBatch<T>&, const A*, const int64_t*, const int64_t*, T*, \
                                           cudaStream_t);
MMSSL_INSTANTIATE(float, float)
MMSSL_INSTANTIATE(double, double)
MMSSL_INSTANTIATE(BFloat16, float)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
