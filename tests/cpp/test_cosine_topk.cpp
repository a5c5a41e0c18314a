// The candidate lists of cosine_topk against a stable sort: many ties, seen items, tiles of any width, merged parts.
#include "cpu/isa/cosine_topk.h"

#include <algorithm>

#include "values.h"

namespace {

template <typename T, typename Index>
void run(int64_t rows, int64_t items, int64_t k, int64_t tile, int64_t parts, double seen_share, int64_t levels) {
  Random random(items * 31 + k);
  const Block<Index> seen = random_block<Index>(random, rows, items, seen_share);
  std::vector<T> scores(rows * items);
  for (T& s : scores) s = static_cast<T>(random.below(levels)) / levels - static_cast<T>(0.5);

  const int64_t capacity = mmssl::MMSSL_ISA::topk_capacity(k);
  std::vector<T> part_best(rows * parts * k, static_cast<T>(NAN)), best(rows * k, static_cast<T>(NAN));
  std::vector<int64_t> part_items(rows * parts * k, -7), best_items(rows * k, -7);
  for (int64_t part = 0; part < parts; ++part) {
    std::vector<mmssl::MMSSL_ISA::topk_key_t<T>> keys(rows * capacity);
    std::vector<int32_t> list(rows * capacity);
    std::vector<int64_t> cursor(seen.crow.begin(), seen.crow.end() - 1), count(rows, -1);
    std::vector<T> bar(rows);
    for (int64_t first = items * part / parts; first < items * (part + 1) / parts; first += tile) {
      const int64_t width = std::min(tile, items * (part + 1) / parts - first);
      std::vector<T> scratch(rows * width);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(&scores[r * items + first], width, &scratch[r * width]);
      mmssl::MMSSL_ISA::cosine_topk_scan(scratch.data(), rows, width, first, width, seen.crow.data(), seen.col.data(),
                                         cursor.data(), k, keys.data(), list.data(), count.data(), bar.data());
    }
    for (int64_t& n : count) n = std::max<int64_t>(n, 0);
    mmssl::MMSSL_ISA::cosine_topk_take(rows, k, keys.data(), list.data(), count.data(), &part_best[part * k],
                                       &part_items[part * k], parts * k);
  }
  in_two_threads(rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::cosine_topk_merge(parts, k, part_best.data(), part_items.data(), best.data(), best_items.data(),
                                        begin, end);
  });

  for (int64_t r = 0; r < rows; ++r) {
    std::vector<int64_t> order;
    const Index *begin = seen.col.data() + seen.crow[r], *end = seen.col.data() + seen.crow[r + 1];
    for (int64_t i = 0; i < items; ++i) {
      if (!std::binary_search(begin, end, static_cast<Index>(i))) order.push_back(i);
    }
    const T* s = &scores[r * items];
    std::stable_sort(order.begin(), order.end(), [s](int64_t a, int64_t b) { return s[a] > s[b]; });
    for (int64_t i = 0; i < k; ++i) {
      const bool found = i < static_cast<int64_t>(order.size());
      const int64_t truth = found ? order[i] : -1;
      CHECK(best_items[r * k + i] == truth, "row %lld, place %lld: item %lld, not %lld", (long long)r, (long long)i,
            (long long)best_items[r * k + i], (long long)truth);
      CHECK(best[r * k + i] == (found ? s[truth] : static_cast<T>(-INFINITY)), "row %lld, place %lld", (long long)r,
            (long long)i);
    }
  }
}

template <typename T, typename Index>
void run_shapes() {
  for (int64_t k : {1, 7, 20, 64, 128}) {
    for (int64_t levels : {2, 1000000}) {
      run<T, Index>(5, 1, k, 1024, 1, 0.0, levels);
      run<T, Index>(3, 41, k, 1024, 1, 0.9, levels);
      run<T, Index>(7, 401, k, 100, 1, 0.1, levels);
      run<T, Index>(4, 2500, k, 1024, 2, 0.05, levels);
    }
  }
  run<T, Index>(2, 130, 5, 64, 1, 1.0, 3);
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_shapes<float, int32_t>();
  run_shapes<double, int64_t>();
  std::puts("ok");
}
