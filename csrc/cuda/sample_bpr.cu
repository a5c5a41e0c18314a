// sample_bpr and sample_bpr_users. The random numbers are counter-based, and the same integers as on the CPU.
// reference.sample_bpr is the definition. A slot is the index of a triple in the batch.
//
// There is one thread per slot, with two Philox calls and three binary searches (full users, crow, items of the user).
// These are about 40 dependent reads, of which all but the last few levels hit L2. The kernel is limited by their
// latency, about 10 us for any batch up to 1e5 slots. 24 bytes per slot are written. For over="users", the key of a
// user is 16 bytes read and 8 bytes written (7 us for a million users at 3.35 TB/s). torch sorts the keys, which takes
// longer.
#include "cuda/sample_bpr.h"

#include <cstdint>

#include "common/philox.h"

namespace mmssl::cuda {
namespace {

constexpr int kThreads = 128;

// The number of the n places with before(place) <= value, where before is non-decreasing.
template <typename Before>
__device__ int64_t count_at_most(int64_t value, int64_t n, Before before) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (before(middle) <= value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The two words of (slot, 0, offset, stream).
template <typename Index>
__device__ Philox4 slot_words(const SampledGraph<Index>& graph, int64_t slot, PhiloxStream stream) {
  return philox4x32(philox_key(static_cast<uint64_t>(graph.seed_offset[0])), static_cast<uint32_t>(slot), 0u,
                    static_cast<uint32_t>(graph.seed_offset[1]), stream);
}

template <typename Index>
__device__ int64_t draw_below(const SampledGraph<Index>& graph, int64_t slot, PhiloxStream stream, int64_t n) {
  const Philox4 words = slot_words(graph, slot, stream);
  return uniform64(words.word[0], words.word[1], n);
}

// Checks the row of a drawn user: it must be within the entries, and the user must have a negative item.
template <typename Index>
__device__ void check_row(const SampledGraph<Index>& graph, int64_t first, int64_t degree) {
  MMSSL_DEVICE_CHECK(0 <= first && 0 < degree && degree <= graph.nnz - first && degree < graph.n_items);
}

// The negative item of slot b, for a user whose items are [first, first + degree) of col.
template <typename Index>
__device__ int64_t draw_negative(const SampledGraph<Index>& graph, int64_t b, int64_t first, int64_t degree) {
  const int64_t rank = draw_below(graph, b, kStreamNegative, graph.n_items - degree);
  return rank + count_at_most(rank, degree, [&](int64_t e) { return static_cast<int64_t>(graph.col[first + e]) - e; });
}

template <typename Index>
__global__ void sample_bpr_kernel(SampledGraph<Index> graph, const int64_t* full_users,  // [n_full]
                                  int64_t n_full, Triples out) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= out.batch) return;
  int64_t edge = draw_below(graph, b, kStreamPositive, graph.nnz - n_full * graph.n_items);
  edge += graph.n_items * count_at_most(edge, n_full, [&](int64_t f) {
            MMSSL_DEVICE_CHECK(0 <= full_users[f] && full_users[f] < graph.n_users);
            return graph.crow[full_users[f]] - f * graph.n_items;
          });
  const int64_t user = count_at_most(edge, graph.n_users + 1, [&](int64_t u) { return graph.crow[u]; }) - 1;
  MMSSL_DEVICE_CHECK(0 <= user && user < graph.n_users && edge < graph.nnz);
  const int64_t first = graph.crow[user], degree = graph.crow[user + 1] - first;
  check_row(graph, first, degree);
  out.users[b] = user;
  out.pos[b] = static_cast<int64_t>(graph.col[edge]);
  out.neg[b] = draw_negative(graph, b, first, degree);
}

template <typename Index>
__global__ void user_keys_kernel(SampledGraph<Index> graph, int64_t* key) {  // [n_users]
  const int64_t user = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (user >= graph.n_users) return;
  const int64_t degree = graph.crow[user + 1] - graph.crow[user];
  const Philox4 words = slot_words(graph, user, kStreamUser);
  const uint64_t word = static_cast<uint64_t>(words.word[1]) << 32 | words.word[0];
  // The sign bit is flipped, so that the signed order is the unsigned order of the words.
  key[user] = 0 < degree && degree < graph.n_items ? static_cast<int64_t>(word ^ uint64_t{1} << 63) : INT64_MAX;
}

template <typename Index>
__global__ void sample_bpr_items_kernel(SampledGraph<Index> graph, const int64_t* drawn,  // [batch]
                                        Triples out) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= out.batch) return;
  const int64_t user = drawn[b], first = graph.crow[user], degree = graph.crow[user + 1] - first;
  check_row(graph, first, degree);
  out.users[b] = user;
  out.pos[b] = static_cast<int64_t>(graph.col[first + draw_below(graph, b, kStreamPositive, degree)]);
  out.neg[b] = draw_negative(graph, b, first, degree);
}

dim3 blocks_of(int64_t threads) { return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)); }

}  // namespace

template <typename Index>
void launch_sample_bpr(const SampledGraph<Index>& graph, const int64_t* full_users, int64_t n_full, Triples out,
                       cudaStream_t stream) {
  launch("sample_bpr", sample_bpr_kernel<Index>, blocks_of(out.batch), dim3(kThreads), 0, stream, graph, full_users,
         n_full, out);
}

template <typename Index>
void launch_user_keys(const SampledGraph<Index>& graph, int64_t* key, cudaStream_t stream) {
  launch("user_keys", user_keys_kernel<Index>, blocks_of(graph.n_users), dim3(kThreads), 0, stream, graph, key);
}

template <typename Index>
void launch_sample_bpr_items(const SampledGraph<Index>& graph, const int64_t* drawn, Triples out, cudaStream_t stream) {
  launch("sample_bpr_items", sample_bpr_items_kernel<Index>, blocks_of(out.batch), dim3(kThreads), 0, stream, graph,
         drawn, out);
}

#define MMSSL_INSTANTIATE(Index)                                                                                      \
  template void launch_sample_bpr<Index>(const SampledGraph<Index>&, const int64_t*, int64_t, Triples, cudaStream_t); \
  template void launch_user_keys<Index>(const SampledGraph<Index>&, int64_t*, cudaStream_t);                          \
  template void launch_sample_bpr_items<Index>(const SampledGraph<Index>&, const int64_t*, Triples, cudaStream_t);
MMSSL_INSTANTIATE(int32_t)
MMSSL_INSTANTIATE(int64_t)
#undef MMSSL_INSTANTIATE

}  // namespace mmssl::cuda
