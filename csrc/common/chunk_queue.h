// Work that threads take a chunk at a time: of a thread that starts late, or whose core somebody else has, the others
// do all the work but for the chunk that it holds.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace mmssl {

// The chunks of [begin, end), each given to one caller, in ascending order. Where the chunks begin does not depend on
// who takes them.
class ChunkQueue {
 public:
  // chunk: length of every chunk but the last, at least 1.
  ChunkQueue(int64_t begin, int64_t end, int64_t chunk) : next_(begin), end_(end), chunk_(chunk) {}

  // The next chunk; false where none is left.
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
