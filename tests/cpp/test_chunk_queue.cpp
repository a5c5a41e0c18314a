// ChunkQueue: every index is given out once, in chunks that depend on nobody, and a late thread keeps its own chunk
// only.
#include "common/chunk_queue.h"

#include <atomic>
#include <vector>

#include "check.h"

namespace {

void every_index_once(int64_t begin, int64_t end, int64_t chunk) {
  mmssl::ChunkQueue queue(begin, end, chunk);
  std::vector<int> taken(end - begin, 0);  // each entry written by whoever took it: a race is a double take
  std::atomic<int> ready{0};
  in_two_threads(2, [&](int64_t, int64_t) {
    for (++ready; ready < 2;) std::this_thread::yield();
    for (int64_t first, last; queue.take(first, last);) {
      CHECK((first - begin) % chunk == 0, "a chunk begins at %ld", static_cast<long>(first));
      CHECK(last - first == chunk || last == end, "a chunk is [%ld, %ld)", static_cast<long>(first),
            static_cast<long>(last));
      for (int64_t i = first; i < last; ++i) ++taken[i - begin];
    }
  });
  for (int64_t i = begin; i < end; ++i) {
    CHECK(taken[i - begin] == 1, "%ld was taken %d times", static_cast<long>(i), taken[i - begin]);
  }
}

// One thread is stopped in the middle of a chunk until all the others are done.
void late_thread() {
  constexpr int64_t kChunks = 100;
  mmssl::ChunkQueue queue(0, kChunks, 1);
  std::atomic<bool> stopped{false}, rest_done{false};
  std::thread late([&] {
    int64_t task;
    CHECK(queue.take(task), "an empty queue");
    stopped = true;
    while (!rest_done) std::this_thread::yield();
    CHECK(!queue.take(task), "task %ld was left for the late thread", static_cast<long>(task));
  });
  while (!stopped) std::this_thread::yield();
  int64_t done = 0;
  for (int64_t task; queue.take(task);) ++done;
  rest_done = true;
  late.join();
  CHECK(done == kChunks - 1, "%ld tasks done", static_cast<long>(done));
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  for (int64_t chunk : {1, 2, 7, 1000, 5000}) every_index_once(3, 3003, chunk);
  every_index_once(0, 0, 4);
  every_index_once(0, 1, 4);
  every_index_once(0, 1000000, 1);
  late_thread();
}
