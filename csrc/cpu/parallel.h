// The distribution of work among torch's threads. at::parallel_for gives every thread a fixed share, and all threads
// wait for the last one. On a busy machine, this is a thread whose core runs another process. Here the threads of a
// parallel region take chunks from a queue instead. Results must not depend on the boundaries of the chunks or on the
// threads that take them. A region of OpenMP still ends when all threads have reached its end, so small work is done
// outside of regions.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "common/chunk_queue.h"

namespace mmssl {

// Work is measured in operations. A vectorised kernel does a few operations per nanosecond.
constexpr int64_t kWorthThreads = int64_t{1} << 18;  // minimum work for which it pays to start other threads
constexpr int64_t kWorthTaking = int64_t{1} << 15;   // minimum work of a chunk
constexpr int64_t kChunksPerThread = 16;

// The number of rows per chunk, if n rows take `work` operations in total.
inline int64_t chunk_rows(int64_t n, int64_t work) {
  const int64_t per_row = work / std::max<int64_t>(n, 1) + 1;
  return std::max({kWorthTaking / per_row, n / (kChunksPerThread * at::get_num_threads()), int64_t{1}});
}

// Runs f(queue) on every thread of a parallel region. f takes chunks of [begin, end) until none is left, and can use
// the same scratch memory for all its chunks.
template <typename F>
void in_region(int64_t begin, int64_t end, int64_t chunk, F&& f) {
  ChunkQueue queue(begin, end, chunk);
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) { f(queue); });
}

// Runs first(i) for all i < n, then between() once, then second(i) for all i < n, in one parallel region. The thread
// that finishes the last first(i) runs between(); the others only wait for threads that are at work.
template <typename First, typename Between, typename Second>
void in_two_steps(int64_t n, First&& first, Between&& between, Second&& second) {
  ChunkQueue firsts(0, n, 1), seconds(0, n, 1);
  std::atomic<int64_t> left(n);
  std::atomic<bool> ready(n == 0);
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t i; firsts.take(i);) {
      first(i);
      if (left.fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
      between();
      ready.store(true, std::memory_order_release);
    }
    while (!ready.load(std::memory_order_acquire)) std::this_thread::yield();
    for (int64_t i; seconds.take(i);) second(i);
  });
}

// Runs f(queue) for the rows [begin, end), which take `work` operations in total: on one thread if this is less than
// kWorthThreads, else in a parallel region.
template <typename F>
void with_row_queue(int64_t begin, int64_t end, int64_t work, F&& f) {
  if (begin >= end) return;
  if (work >= kWorthThreads) return in_region(begin, end, chunk_rows(end - begin, work), f);
  at::parallel_for(0, 1, 1, [&](int64_t, int64_t) {
    ChunkQueue queue(begin, end, end - begin);
    f(queue);
  });
}

// Runs f(first row, end row) for all chunks of the rows [begin, end), which take `work` operations in total.
template <typename F>
void for_rows(int64_t begin, int64_t end, int64_t work, F&& f) {
  with_row_queue(begin, end, work, [&](ChunkQueue& queue) {
    for (int64_t row, row_end; queue.take(row, row_end);) f(row, row_end);
  });
}

}  // namespace mmssl
