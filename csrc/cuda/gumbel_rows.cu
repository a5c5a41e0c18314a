// gumbel_lse and gumbel_tile: the softmax of equation 5 in two passes, which both generate the noise.
//
// Limited by arithmetic. Four consecutive entries share ten Philox rounds (20 wide multiplications and 20 three-way
// xors, about 15 issue slots per entry). Every entry needs two accurate logarithms (about 40 slots) and an exponential
// (about 12). With the sums, this is about 75 slots per entry. An H100 issues 132 SM x 128 lanes x 1.7 GHz = 2.9e13
// slots per second, so an entry takes 2.6 ps per pass. Writing its four bytes takes 1.2 ps at 3.35 TB/s. Storing the
// scores instead (write 4 bytes, read 4 bytes: 2.4 ps) would save nothing.
//
// A block processes consecutive columns of one row, and a thread four columns (one Philox call) at a time. The seen
// items of these columns are bits in shared memory, so that seen and unseen entries take the same path. The sums are
// float64 after every four entries. They do not depend on the batch, only on the number of items.
#include "cuda/gumbel_rows.h"

#include <cmath>
#include <cstdint>

#include "cuda/gumbel_noise.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileColumns = 4096;

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads) gumbel_lse_kernel(GumbelBatch<Index> batch, int64_t splits,
                                                              double* partial) {  // [B, splits, 2]
  __shared__ unsigned words[kLseColumns / 32];
  __shared__ ExpSum<T> scratch[kThreads / kWarp];
  const int64_t row = blockIdx.x / splits, first = blockIdx.x % splits * kLseColumns;
  const int64_t last = min(first + kLseColumns, batch.n_items);
  const int64_t user = user_of(batch, row);
  const RowNoise noise = row_noise(batch, user);
  SeenBits<kLseColumns> seen{words};
  seen.mark(seen_items(batch, user), first, last);
  const T scale = static_cast<T>(batch.noise_scale), inv_tau = static_cast<T>(1 / batch.tau);
  ExpSum<T> mine = ExpSum<T>::none();
  for (int64_t column = first + 4 * threadIdx.x; column < last; column += 4 * kThreads) {
    Four<T> score = four_scores(noise, column / 4, scale, seen.four(static_cast<int>(column - first)));
    T top = score.value[0];
#pragma unroll
    for (int j = 1; j < 4; ++j) {
      if (column + j >= last) score.value[j] = -static_cast<T>(INFINITY);
      top = max(top, score.value[j]);
    }
    mine.raise(top, inv_tau);
    T sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += exp_of((score.value[j] - mine.top) * inv_tau);
    mine.sum += sum;
  }
  const ExpSum<T> total = block_sum(mine, inv_tau, scratch);
  if (threadIdx.x == 0) {
    partial[2 * static_cast<int64_t>(blockIdx.x)] = total.top;
    partial[2 * static_cast<int64_t>(blockIdx.x) + 1] = total.sum;
  }
}

__global__ void gumbel_lse_merge_kernel(const double* partial,  // [B, splits, 2]
                                        int64_t n_rows, int64_t splits, double tau,
                                        double* lse) {  // [B]
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= n_rows) return;
  ExpSum<double> total = ExpSum<double>::none();
  for (int64_t s = row * splits; s < (row + 1) * splits; ++s) total.add({partial[2 * s], partial[2 * s + 1]}, 1 / tau);
  lse[row] = total.top / tau + log(total.sum);
}

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    gumbel_tile_kernel(GumbelBatch<Index> batch, const double* lse,  // [B]
                       int64_t first, int64_t last, int64_t chunks, bool accumulate,
                       T* out) {  // [B, last - first]
  __shared__ unsigned words[kTileColumns / 32];
  __shared__ Four<T>
      weights[kTileColumns / 4];  // stored value by value, because rows need not start at a multiple of 16 bytes
  const int64_t row = blockIdx.x / chunks;
  // Chunks start at multiples of 4, like Philox calls.
  const int64_t start = first / 4 * 4 + blockIdx.x % chunks * kTileColumns;
  const int64_t stop = min(start + kTileColumns, last);
  const int64_t user = user_of(batch, row);
  const RowNoise noise = row_noise(batch, user);
  SeenBits<kTileColumns> seen{words};
  seen.mark(seen_items(batch, user), start, stop);
  const T scale = static_cast<T>(batch.noise_scale), inv_tau = static_cast<T>(1 / batch.tau);
  // tau lse as the sum of two parts. Near the maximum of the row, where the entries are largest, score - high is exact.
  const double level = lse[row] * batch.tau;
  const T high = static_cast<T>(level), low = static_cast<T>((level - high) / batch.tau);
  const int width = static_cast<int>(stop - start), skipped = static_cast<int>(max(first - start, int64_t{0}));
  for (int place = 4 * threadIdx.x; place < width; place += 4 * kThreads) {
    Four<T> four = four_scores(noise, (start + place) / 4, scale, seen.four(place));
#pragma unroll
    for (int j = 0; j < 4; ++j) four.value[j] = exp_of((four.value[j] - high) * inv_tau - low);
    weights[place / 4] = four;
  }
  __syncthreads();
  const T* const weight = reinterpret_cast<const T*>(weights);
  T* const row_out = out + row * (last - first) + (start - first);
  for (int place = skipped + threadIdx.x; place < width; place += kThreads) {
    row_out[place] = accumulate ? row_out[place] + weight[place] : weight[place];
  }
}

}  // namespace

template <typename T, typename Index>
void launch_gumbel_lse(const GumbelBatch<Index>& batch, double* partial, double* lse, cudaStream_t stream) {
  const int64_t splits = lse_splits(batch.n_items), n_rows = batch.n_rows;
  launch("gumbel_lse", gumbel_lse_kernel<T, Index>, dim3(static_cast<unsigned>(n_rows * splits)), dim3(kThreads), 0,
         stream, batch, splits, partial);
  launch("gumbel_lse_merge", gumbel_lse_merge_kernel, dim3(static_cast<unsigned>((n_rows + kThreads - 1) / kThreads)),
         dim3(kThreads), 0, stream, partial, n_rows, splits, batch.tau, lse);
}

template <typename T, typename Index>
void launch_gumbel_tile(const GumbelBatch<Index>& batch, const double* lse, int64_t first, int64_t last,
                        bool accumulate, T* out, cudaStream_t stream) {
  const int64_t chunks = last > first ? (last - first / 4 * 4 + kTileColumns - 1) / kTileColumns : 0;
  launch("gumbel_tile", gumbel_tile_kernel<T, Index>, dim3(static_cast<unsigned>(batch.n_rows * chunks)),
         dim3(kThreads), 0, stream, batch, lse, first, last, chunks, accumulate, out);
}

#define MMSSL_INSTANTIATE(T, Index)                                                                                \
  template void launch_gumbel_lse<T, Index>(const GumbelBatch<Index>&, double*, double*, cudaStream_t);            \
  template void launch_gumbel_tile<T, Index>(const GumbelBatch<Index>&, const double*, int64_t, int64_t, bool, T*, \
                                             cudaStream_t);
MMSSL_INSTANTIATE(float, int32_t)
MMSSL_INSTANTIATE(float, int64_t)
MMSSL_INSTANTIATE(double, int32_t)
MMSSL_INSTANTIATE(double, int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
