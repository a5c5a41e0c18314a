// How the CPU kernels hand out work to torch's threads. at::parallel_for gives each thread one share beforehand, and
// all wait for the last: on a busy machine that is a thread whose core somebody else has. Here the threads of one
// parallel region take chunks from a queue instead. Results must not depend on where a chunk begins or who takes it.
// OpenMP still ends a region only when every thread has been there, so what is small stays outside of one.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "common/chunk_queue.h"

namespace mmssl {

// Work is counted in operations, of which a vectorised kernel makes a few a nanosecond.
constexpr int64_t kWorthThreads = int64_t{1} << 18;  // outweighs waking other threads and waiting for them
constexpr int64_t kWorthTaking = int64_t{1} << 15;   // outweighs taking a chunk
constexpr int64_t kChunksPerThread = 16;

// How many of n rows, of `work` operations in all, make a chunk.
inline int64_t chunk_rows(int64_t n, int64_t work) {
  const int64_t per_row = work / std::max<int64_t>(n, 1) + 1;
  return std::max({kWorthTaking / per_row, n / (kChunksPerThread * at::get_num_threads()), int64_t{1}});
}

// Runs f(queue) on every thread of a parallel region: f takes chunks of [begin, end) until none is left, with scratch
// memory that all its chunks share.
template <typename F>
void in_region(int64_t begin, int64_t end, int64_t chunk, F&& f) {
  ChunkQueue queue(begin, end, chunk);
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { f(queue); });
}

// Runs f(queue) where the rows [begin, end) are to be worked on, on one thread if they make fewer than kWorthThreads
// operations. work: operations of all rows.
template <typename F>
void with_row_queue(int64_t begin, int64_t end, int64_t work, F&& f) {
  if (begin >= end) return;
  if (work >= kWorthThreads) return in_region(begin, end, chunk_rows(end - begin, work), f);
  at::parallel_for(0, 1, 1, [&](int64_t, int64_t) {
    ChunkQueue queue(begin, end, end - begin);
    f(queue);
  });
}

// Runs f(first row, end row) over all chunks of the rows [begin, end). work: operations of all rows.
template <typename F>
void for_rows(int64_t begin, int64_t end, int64_t work, F&& f) {
  with_row_queue(begin, end, work, [&](ChunkQueue& queue) {
    for (int64_t row, row_end; queue.take(row, row_end);) f(row, row_end);
  });
}

}  // namespace mmssl
