// A queue from which threads take chunks of work. If a thread starts late or is interrupted, the other threads do all
// the work except for the chunk that it has taken.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mmssl {

// The chunks of [begin, end) in ascending order, each given to one caller. The boundaries of the chunks do not depend
// on the callers.
class ChunkQueue {
 public:
  // chunk: length of every chunk but the last, at least 1.
  ChunkQueue(int64_t begin, int64_t end, int64_t chunk) : next_(begin), end_(end), chunk_(chunk) {}

  // Takes the next chunk. Returns false if none is left.
  bool take(int64_t& begin, int64_t& end) {
    begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
    end = std::min(begin + chunk_, end_);
    return begin < end_;
  }

  // The same for chunks of length 1.
  bool take(int64_t& task) {
    int64_t end;
    return take(task, end);
  }

 private:
  std::atomic<int64_t> next_;
  const int64_t end_, chunk_;
};

}  // namespace mmssl
