// The distribution of long rows of a CSR block, without the host knowing which rows are long.
//
// A row is divided into chunks of kChunk entries, counted from the start of the row, so that its sum has the same bits
// wherever the row is in the block. The team of the row processes the first chunk. For the later chunks, the entries of
// the block are divided into windows of kChunk entries. At most one later chunk begins in a window: two of them would
// be in the same row, and thus at least kChunk apart. The row of this chunk contains the first entry of the window. The
// host knows the number of windows, and consecutive chunks of a row are in consecutive windows.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace mmssl::cuda {

constexpr int64_t kChunk = 128;
// The windows per warp. Every lane searches one window.
constexpr int kWindowsPerWarp = 8;

constexpr int64_t chunk_windows(int64_t nnz) { return (nnz + kChunk - 1) / kChunk; }

struct Chunk {
  int64_t row, begin, end;  // begin == end: no chunk
};

// The later chunk that begins in a window, if there is one. O(log n_rows) dependent reads.
__device__ inline Chunk chunk_of_window(const int64_t* crow, int64_t n_rows, int64_t nnz, int64_t window) {
  const int64_t entry = window * kChunk;
  if (n_rows == 0 || entry < crow[0] || entry >= crow[n_rows]) return {0, 0, 0};
  int64_t low = 0, high = n_rows;  // crow[low] <= entry < crow[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (crow[middle] <= entry) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t row_begin = crow[low], row_end = crow[high];
  const int64_t begin = row_begin + (entry - row_begin + kChunk - 1) / kChunk * kChunk;
  MMSSL_DEVICE_CHECK(row_begin >= 0 && row_end <= nnz);
  if (begin == row_begin || begin >= row_end) return {0, 0, 0};
  return {low, begin, row_end - begin < kChunk ? row_end : begin + kChunk};
}

// Calls f(chunk) for every later chunk in the windows of this warp. All 32 lanes must call this function, and all call
// f. The windows of a warp are `n_warps` apart, so that the chunks of a row are processed by different warps.
template <typename F>
__device__ __forceinline__ void for_each_chunk(const int64_t* crow, int64_t n_rows, int64_t nnz, int64_t warp,
                                               int64_t n_warps, F&& f) {
  const int lane = threadIdx.x % kWarp;
  Chunk mine{0, 0, 0};
  const int64_t window = warp + lane * n_warps;
  if (lane < kWindowsPerWarp && window < chunk_windows(nnz)) mine = chunk_of_window(crow, n_rows, nnz, window);
  for (unsigned left = __ballot_sync(kAllLanes, mine.begin < mine.end); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    f(Chunk{__shfl_sync(kAllLanes, mine.row, owner), __shfl_sync(kAllLanes, mine.begin, owner),
            __shfl_sync(kAllLanes, mine.end, owner)});
  }
}

// The number of blocks of `warps_per_block` warps for all windows.
inline int64_t chunk_blocks(int64_t nnz, int warps_per_block) {
  const int64_t per_block = int64_t{kWindowsPerWarp} * warps_per_block;
  return (chunk_windows(nnz) + per_block - 1) / per_block;
}

}  // namespace mmssl::cuda
