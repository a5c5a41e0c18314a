// The search of cosine_topk against a stable sort: many ties, seen items, tiles and panels not full, merged parts.
#include "cpu/isa/cosine_topk.h"

#include <algorithm>

#include "values.h"

namespace {

// Whole numbers, so that every sum is exact and many tie; levels: how many different ones.
template <typename T, typename Index>
void run(int64_t rows, int64_t items, int64_t k, int64_t d, int64_t parts, double seen_share, int64_t levels) {
  Random random(items * 31 + k);
  const Block<Index> seen = random_block<Index>(random, rows, items, seen_share);
  const int64_t v_rows = std::max(items, mmssl::MMSSL_ISA::kTopkItems);
  std::vector<T> u(rows * d), v(v_rows * d, static_cast<T>(NAN));
  for (T& x : u) x = static_cast<T>(random.below(levels) - levels / 2);
  for (int64_t j = 0; j < items * d; ++j) v[j] = static_cast<T>(random.below(levels) - levels / 2);
  std::vector<T> scores(rows * items);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < items; ++i) {
      for (int64_t j = 0; j < d; ++j) scores[r * items + i] += u[r * d + j] * v[i * d + j];
    }
  }

  const int64_t capacity = mmssl::MMSSL_ISA::topk_capacity(k, items),
                padded = mmssl::MMSSL_ISA::topk_panel_rows<T>(rows);
  std::vector<T> part_best(rows * parts * k, static_cast<T>(NAN)), best(rows * k, static_cast<T>(NAN));
  std::vector<int64_t> part_items(rows * parts * k, -7), best_items(rows * k, -7);
  for (int64_t part = 0; part < parts; ++part) {
    std::vector<mmssl::MMSSL_ISA::topk_key_t<T>> keys(padded * capacity), other_keys(capacity);
    std::vector<int32_t> list(padded * capacity), other_list(capacity);
    std::vector<int64_t> cursor(padded), count(padded);
    std::vector<T> packed(padded * d), first(mmssl::MMSSL_ISA::topk_panel_rows<T>(1) * mmssl::MMSSL_ISA::kTopkFirst),
        bar(padded);
    mmssl::MMSSL_ISA::cosine_topk_search(u.data(), v.data(), rows, d, items * part / parts, items * (part + 1) / parts,
                                         seen.crow.data(), seen.col.data(), k, capacity, packed.data(), first.data(),
                                         cursor.data(), keys.data(), list.data(), count.data(), bar.data());
    mmssl::MMSSL_ISA::cosine_topk_take(rows, k, capacity, keys.data(), list.data(), count.data(), other_keys.data(),
                                       other_list.data(), &part_best[part * k], &part_items[part * k], parts * k);
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
  for (int64_t k : {1, 7, 20, 64, 128, 129, 300, 1000, 5003}) {
    for (int64_t levels : {3, 301}) {
      run<T, Index>(5, 1, k, 3, 1, 0.0, levels);
      run<T, Index>(3, 41, k, 7, 1, 0.9, levels);
      run<T, Index>(33, 1025, k, 1, 1, 0.1, levels);
      run<T, Index>(47, 2500, k, 5, 1, 0.05, levels);
      run<T, Index>(4, 5003, k, 2, 3, 0.5, levels);
    }
  }
  run<T, Index>(2, 130, 5, 0, 1, 0.5, 3);
  run<T, Index>(2, 130, 5, 4, 1, 1.0, 3);
  run<T, Index>(130, 1400, 9, 600, 1, 0.2, 5);
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_shapes<float, int32_t>();
  run_shapes<double, int64_t>();
  std::puts("ok");
}
