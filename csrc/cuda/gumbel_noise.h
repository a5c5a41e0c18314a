// Device functions for the Gumbel noise of one entry or four consecutive entries, and for the rows of a batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/philox.h"
#include "cuda/gumbel_rows.h"
#include "cuda/launch.h"

namespace mmssl::cuda {

inline __device__ float exp_of(float x) { return expf(x); }
inline __device__ double exp_of(double x) { return exp(x); }

// g = -log E with E = -log1p(-v).
inline __device__ float gumbel_from_bits(uint32_t bits) { return -logf(-log1pf(-unit_from_bits(bits))); }

// The key and counter words of a row.
struct RowNoise {
  PhiloxKey key;
  uint32_t user, offset;

  __device__ Philox4 words(int64_t block, PhiloxStream stream) const {
    return philox4x32(key, static_cast<uint32_t>(block), user, offset, stream);
  }

  // Word `index` of a stream. The word is selected by conditions, because a variable array index would put the words in
  // local memory.
  __device__ uint32_t word(int64_t index, PhiloxStream stream) const {
    const Philox4 four = words(index / 4, stream);
    const uint32_t low = index % 2 == 0 ? four.word[0] : four.word[1];
    const uint32_t high = index % 2 == 0 ? four.word[2] : four.word[3];
    return index % 4 < 2 ? low : high;
  }
};

template <typename Index>
__device__ RowNoise row_noise(const GumbelBatch<Index>& batch, int64_t user) {
  return {philox_key(static_cast<uint64_t>(batch.seed_offset[0])), static_cast<uint32_t>(user),
          static_cast<uint32_t>(batch.seed_offset[1])};
}

template <typename Index>
__device__ int64_t user_of(const GumbelBatch<Index>& batch, int64_t row) {
  const int64_t user = batch.users[row];
  MMSSL_DEVICE_CHECK(0 <= user && user < batch.n_users);
  return user;
}

// The seen items of a user, ascending.
template <typename Index>
struct SeenItems {
  const Index* item;
  int64_t n;

  __device__ int64_t operator[](int64_t e) const { return static_cast<int64_t>(item[e]); }

  // The first entry at or after `column`.
  __device__ int64_t lower_bound(int64_t column) const {
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if ((*this)[middle] < column) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // The unseen item that has `rank` unseen items before it. A binary search, because seen[e] - e is non-decreasing.
  __device__ int64_t unseen(int64_t rank) const {
    int64_t low = 0, high = n;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if ((*this)[middle] - middle <= rank) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return rank + low;
  }
};

template <typename Index>
__device__ SeenItems<Index> seen_items(const GumbelBatch<Index>& batch, int64_t user) {
  const int64_t first = batch.crow[user], last = batch.crow[user + 1];
  MMSSL_DEVICE_CHECK(0 <= first && first <= last && last <= batch.nnz && last - first <= batch.n_items);
  return {batch.col + first, last - first};
}

// A bit per column, for kColumns columns, which is set if the item is seen. It is in the shared memory of the block.
template <int kColumns>
struct SeenBits {
  static constexpr int kWords = kColumns / 32;
  unsigned* words;  // [kWords]

  // Sets the bits of the seen items in [first, first + kColumns). Every thread of the block must call it.
  template <typename Index>
  __device__ void mark(const SeenItems<Index>& seen, int64_t first, int64_t last) {
    for (int w = threadIdx.x; w < kWords; w += blockDim.x) words[w] = 0;
    __syncthreads();
    const int64_t stop = seen.lower_bound(last);
    for (int64_t e = seen.lower_bound(first) + threadIdx.x; e < stop; e += blockDim.x) {
      const int64_t place = seen[e] - first;
      MMSSL_DEVICE_CHECK(0 <= place && place < kColumns);
      atomicOr(words + place / 32, 1u << (place % 32));
    }
    __syncthreads();
  }

  // The bits of four columns from `place`, which is a multiple of 4.
  __device__ unsigned four(int place) const { return words[place / 32] >> (place % 32) & 15u; }
};

// Four consecutive entries of a row, which are stored together.
template <typename T>
struct alignas(16) Four {
  T value[4];
};

// A + s g of the columns 4 block to 4 block + 3. A is 1 if bit j of `seen` is set.
template <typename T>
__device__ Four<T> four_scores(const RowNoise& noise, int64_t block, T scale, unsigned seen) {
  const Philox4 words = noise.words(block, kStreamDense);
  Four<T> score;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    score.value[j] = scale * static_cast<T>(gumbel_from_bits(words.word[j])) + static_cast<T>(seen >> j & 1u);
  }
  return score;
}

// A sum of exponentials with a running maximum: its value is sum exp(top).
template <typename T>
struct ExpSum {
  T top;
  double sum;

  static __device__ ExpSum none() { return {-static_cast<T>(INFINITY), 0}; }

  __device__ void raise(T score, T inv_tau) {
    if (score > top) {
      sum *= exp_of((top - score) * inv_tau);
      top = score;
    }
  }

  __device__ void add(ExpSum other, T inv_tau) {
    raise(other.top, inv_tau);
    if (other.sum > 0) sum += other.sum * exp_of((other.top - top) * inv_tau);
  }
};

// The sum over the block, which every thread gets. `scratch` has one element per warp.
template <typename T>
__device__ ExpSum<T> block_sum(ExpSum<T> mine, T inv_tau, ExpSum<T>* scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    mine.add({__shfl_xor_sync(kAllLanes, mine.top, step), __shfl_xor_sync(kAllLanes, mine.sum, step)}, inv_tau);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  ExpSum<T> total = scratch[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) total.add(scratch[w], inv_tau);
  __syncthreads();
  return total;
}

}  // namespace mmssl::cuda
