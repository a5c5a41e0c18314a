// gumbel_order_statistics: the rows of equation 5 from their order statistics, without reading their lengths on the
// host. The definition is reference.gumbel_order_statistics. cpu/order_statistics.h draws the same items one by one.
//
// A warp computes a row, 32 draws at a time. The smallest E are a prefix sum of the gaps. The sum is increasing, so the
// largest weight is that of the first draw or of a seen item, and a ballot finds the first draw that meets the stopping
// rule. A first kernel counts the entries of every row. The running sums of the counts are the offsets of the rows. A
// second kernel draws again and writes the entries.
//
// Items: step k of the shuffle swaps the places k and pick_k >= k, and yields the value that was at pick_k. The value
// at place p before step k was put there by the latest step j < k with pick_j = p, and is the value that was at place j
// before step j. This is a chain, which ends if there is no such j. All picks are known in advance, because the noise
// is a function of k. They are stored in a hash table, and every lane follows its own chain. Then the row is sorted by
// item (bitonic sort) and divided by its sum.
//
// For rows of up to kSharedEntries, the table, the sort keys and the weights are in shared memory, for longer rows in
// scratch memory. A draw takes about 500 issue slots, mostly for float64 logarithms (half rate on an H100, 64 lanes per
// clock). 45 draws for each of 1024 rows (tau = 0.2) take 1e-6 s of a whole H100. Latency is longer: two kernels of
// about 5 us.
#include "cuda/order_statistics.h"

#include <cmath>
#include <cstdint>

#include "cuda/gumbel_noise.h"

namespace mmssl::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kSharedEntries = 256;
constexpr unsigned long long kEmpty = ~0ull;

__device__ double exponential(uint32_t bits) { return -log1p(-static_cast<double>(unit_from_bits(bits))); }

__device__ double warp_max(double x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmax(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

__device__ double warp_sum(double x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// One row: its noise and parameters.
template <typename Index>
struct Row {
  RowNoise noise;
  SeenItems<Index> seen;
  int64_t n;     // unseen items
  double power;  // exponent of E in the weight of an unseen item: noise_scale / tau
  double tau;

  __device__ Row(const GumbelBatch<Index>& batch, int64_t row) {
    const int64_t user = user_of(batch, row);
    noise = row_noise(batch, user);
    seen = seen_items(batch, user);
    n = batch.n_items - seen.n;
    power = batch.noise_scale / batch.tau;
    tau = batch.tau;
  }

  __device__ double seen_log_weight(int64_t item) const {
    return 1 / tau - power * log(exponential(noise.word(item, kStreamDense)));
  }

  // log E of the draws base to base + 31, one per lane (draws from n on repeat the last one). `before` is the sum of
  // the gaps before them, and is increased by their gaps.
  __device__ double log_e(int64_t base, double* before) const {
    const int lane = threadIdx.x % kWarp;
    const int64_t k = base + lane;
    double e = 0;
    if (k < n) e = exponential(noise.word(k, kStreamGap)) / static_cast<double>(n - k);
    for (int step = 1; step < kWarp; step *= 2) {
      const double other = __shfl_up_sync(kAllLanes, e, step);
      if (lane >= step) e += other;
    }
    e += *before;
    *before = __shfl_sync(kAllLanes, e, kWarp - 1);
    return log(e);
  }

  // The place that step k of the shuffle swaps with place k.
  __device__ int64_t pick(int64_t k) const {
    const Philox4 words = noise.words(k / 2, kStreamItem);
    return k + (k % 2 == 0 ? uniform64(words.word[0], words.word[1], n - k)
                           : uniform64(words.word[2], words.word[3], n - k));
  }
};

template <typename Index>
__global__ void __launch_bounds__(kWarps* kWarp) order_statistics_count_kernel(GumbelBatch<Index> batch,
                                                                               int64_t* count) {  // [B]
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (r >= batch.n_rows) return;
  const Row<Index> row(batch, r);
  double top = -INFINITY;
  for (int64_t e = lane; e < row.seen.n; e += kWarp) top = fmax(top, row.seen_log_weight(row.seen[e]));
  top = warp_max(top);
  const double log_rest = log(static_cast<double>(row.n) / (row.power - 1));  // of n E^(1 - a) / (a - 1) but for E
  const double negligible = -24 * log(2.0);
  double before = 0;
  int64_t draws = row.n;
  for (int64_t base = 0; base < row.n; base += kWarp) {
    const double log_e = row.log_e(base, &before);
    if (base == 0) top = fmax(top, -row.power * __shfl_sync(kAllLanes, log_e, 0));
    const bool last = log_rest + (1 - row.power) * log_e - top < negligible;
    const unsigned enough = __ballot_sync(kAllLanes, last && base + lane < row.n);
    if (enough != 0) {
      draws = base + __ffs(static_cast<int>(enough));
      break;
    }
  }
  if (lane == 0) count[r] = row.seen.n + draws;
}

// A hash table from places to the steps that picked them, with open addressing. Every step has an entry (place in the
// high word, step in the low word), so a place that was picked twice has two entries. At most half of the slots are
// used.
class Picks {
 public:
  __device__ Picks(unsigned long long* slots, int64_t n_slots) : slots_(slots), n_slots_(n_slots) {}

  __device__ void insert(int64_t place, int64_t step) {
    const unsigned long long entry = static_cast<unsigned long long>(place) << 32 | static_cast<uint32_t>(step);
    int64_t slot = start(place);
    while (atomicCAS(slots_ + slot, kEmpty, entry) != kEmpty) slot = next(slot);
  }

  // The value at `place` before `step`.
  __device__ int64_t held(int64_t place, int64_t step) const {
    for (;;) {
      int64_t latest = -1;
      for (int64_t slot = start(place); slots_[slot] != kEmpty; slot = next(slot)) {
        const int64_t other = static_cast<uint32_t>(slots_[slot]);
        if (static_cast<int64_t>(slots_[slot] >> 32) == place && other < step) latest = max(latest, other);
      }
      if (latest < 0) return place;
      place = step = latest;
    }
  }

 private:
  __device__ int64_t start(int64_t place) const {
    const uint64_t hash = static_cast<uint32_t>(place) * 0x9E3779B1u;
    return static_cast<int64_t>(hash * static_cast<uint64_t>(n_slots_) >> 32);
  }
  __device__ int64_t next(int64_t slot) const { return slot + 1 < n_slots_ ? slot + 1 : 0; }

  unsigned long long* slots_;
  int64_t n_slots_;
};

// Sorts key[0 .. n) with one warp. n is a power of two.
__device__ void bitonic_sort(unsigned long long* key, int64_t n) {
  for (int64_t size = 2; size <= n; size *= 2) {
    for (int64_t stride = size / 2; stride > 0; stride /= 2) {
      for (int64_t t = threadIdx.x % kWarp; t < n / 2; t += kWarp) {
        const int64_t i = 2 * t - (t & (stride - 1)), j = i + stride;
        const unsigned long long a = key[i], b = key[j];
        if ((a > b) == ((i & size) == 0)) {
          key[i] = b;
          key[j] = a;
        }
      }
      __syncwarp();
    }
  }
}

template <typename Index>
__global__ void __launch_bounds__(kWarps* kWarp)
    order_statistics_draw_kernel(GumbelBatch<Index> batch, const int64_t* crow,  // [B + 1]
                                 int64_t capacity,
                                 unsigned long long* slots_scratch,  // [2 capacity]
                                 double* weight_scratch,             // [capacity]
                                 Index* col,                         // [capacity]
                                 float* value) {                     // [capacity]
  __shared__ unsigned long long shared_slots[kWarps][2 * kSharedEntries];
  __shared__ double shared_weight[kWarps][kSharedEntries];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (r >= batch.n_rows) return;
  const Row<Index> row(batch, r);
  const int64_t first = crow[r], n_entries = crow[r + 1] - first, n_seen = row.seen.n, draws = n_entries - n_seen;
  MMSSL_DEVICE_CHECK(crow[r + 1] <= capacity);
  const bool fits = n_entries <= kSharedEntries;
  unsigned long long* const slots = fits ? shared_slots[warp] : slots_scratch + 2 * first;
  double* const weight = fits ? shared_weight[warp] : weight_scratch + first;

  for (int64_t s = lane; s < 2 * draws; s += kWarp) slots[s] = kEmpty;
  __syncwarp();
  Picks picks(slots, 2 * draws);
  for (int64_t k = lane; k < draws; k += kWarp) picks.insert(row.pick(k), k);
  __syncwarp();

  double top = -INFINITY, before = 0;
  for (int64_t e = lane; e < n_seen; e += kWarp) {
    weight[e] = row.seen_log_weight(row.seen[e]);
    top = fmax(top, weight[e]);
    col[first + e] = row.seen.item[e];
  }
  for (int64_t base = 0; base < draws; base += kWarp) {
    const double log_weight = -row.power * row.log_e(base, &before);
    const int64_t k = base + lane;
    if (k >= draws) continue;
    top = fmax(top, log_weight);
    weight[n_seen + k] = log_weight;
    col[first + n_seen + k] = static_cast<Index>(row.seen.unseen(picks.held(row.pick(k), k)));
  }
  top = warp_max(top);
  __syncwarp();
  double sum = 0;
  for (int64_t i = lane; i < n_entries; i += kWarp) sum += weight[i] = exp(weight[i] - top);
  sum = warp_sum(sum);

  int64_t padded = 1;
  while (padded < n_entries) padded *= 2;
  __syncwarp();
  for (int64_t i = lane; i < padded; i += kWarp) {
    slots[i] =
        i < n_entries ? static_cast<unsigned long long>(col[first + i]) << 32 | static_cast<uint32_t>(i) : kEmpty;
  }
  __syncwarp();
  bitonic_sort(slots, padded);
  for (int64_t i = lane; i < n_entries; i += kWarp) {
    col[first + i] = static_cast<Index>(slots[i] >> 32);
    value[first + i] = static_cast<float>(weight[static_cast<uint32_t>(slots[i])] / sum);
  }
}

unsigned blocks(int64_t n_rows) { return static_cast<unsigned>((n_rows + kWarps - 1) / kWarps); }

}  // namespace

template <typename Index>
void launch_order_statistics_count(const GumbelBatch<Index>& batch, int64_t* count, cudaStream_t stream) {
  launch("order_statistics_count", order_statistics_count_kernel<Index>, dim3(blocks(batch.n_rows)),
         dim3(kWarps * kWarp), 0, stream, batch, count);
}

template <typename Index>
void launch_order_statistics_draw(const GumbelBatch<Index>& batch, const int64_t* crow, int64_t capacity,
                                  unsigned long long* slots, double* weight, Index* col, float* value,
                                  cudaStream_t stream) {
  launch("order_statistics_draw", order_statistics_draw_kernel<Index>, dim3(blocks(batch.n_rows)), dim3(kWarps * kWarp),
         0, stream, batch, crow, capacity, slots, weight, col, value);
}

#define MMSSL_INSTANTIATE(Index)                                                                         \
  template void launch_order_statistics_count<Index>(const GumbelBatch<Index>&, int64_t*, cudaStream_t); \
  template void launch_order_statistics_draw<Index>(const GumbelBatch<Index>&, const int64_t*, int64_t,  \
                                                    unsigned long long*, double*, Index*, float*, cudaStream_t);
MMSSL_INSTANTIATE(int32_t)
MMSSL_INSTANTIATE(int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
