// The kernels of Gumbel rows, the samplers' words and the order statistics, arrays of exactly the size they need,
// two threads at once.
#include "cpu/isa/gumbel_rows.h"

#include <cmath>
#include <vector>

#include "check.h"
#include "common/philox.h"
#include "cpu/isa/philox.h"
#include "cpu/order_statistics.h"

namespace {

namespace kernels = mmssl::MMSSL_ISA;

template <typename Index>
struct Graph {
  std::vector<int64_t> crow{0};
  std::vector<Index> col;

  Graph(int64_t n_users, int64_t n_items, uint32_t percent) {
    Random random(n_users * 1000 + n_items);
    for (int64_t u = 0; u < n_users; ++u) {
      for (int64_t i = 0; i < n_items; ++i) {
        if (u != 1 && random.bits() % 100 < percent) col.push_back(static_cast<Index>(i));
      }
      crow.push_back(static_cast<int64_t>(col.size()));
    }
    col.shrink_to_fit();
  }
};

void words_equal_definition(int64_t n) {
  const uint64_t seed = 0xfedcba9876543210u;
  std::vector<uint64_t> words(n);
  kernels::philox_words(seed, 5, 3, 11, n, words.data());
  for (int64_t j = 0; j < n; ++j) {
    const mmssl::Philox4 truth = mmssl::philox4x32(mmssl::philox_key(seed), static_cast<uint32_t>(11 + j), 0, 5, 3);
    CHECK(words[j] == (static_cast<uint64_t>(truth.word[1]) << 32 | truth.word[0]), "counter %lld", (long long)j);
  }
}

template <typename T, typename Index>
void rows_are_softmax(int64_t n_users, int64_t n_items, uint32_t percent, mmssl::GumbelNoise noise) {
  const Graph<Index> graph(n_users, n_items, percent);
  std::vector<int64_t> users(n_users);
  for (int64_t u = 0; u < n_users; ++u) users[u] = (n_users - 1 - u) / 2;  // each twice
  const int64_t* crow = graph.crow.data();
  const Index* col = graph.col.data();
  std::vector<double> lse(n_users, NAN);
  std::vector<T> rows(n_users * n_items, static_cast<T>(NAN)), added(n_users * n_items, T{1}), norm(n_users, T{0});
  in_two_threads(n_users, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(n_items);
    kernels::gumbel_lse(noise, crow, col, users.data(), n_items, lse.data(), begin, end);
    kernels::gumbel_softmax(noise, crow, col, users.data(), n_items, false, false, rows.data(), norm.data(),
                            static_cast<T*>(nullptr), begin, end);
    kernels::gumbel_softmax(noise, crow, col, users.data(), n_items, true, true, added.data(), norm.data(),
                            scratch.data(), begin, end);
  });
  for (int64_t first : {int64_t{0}, n_items / 3, n_items - 1}) {
    const int64_t last = n_items - n_items / 7, width = last > first ? last - first : 0;
    std::vector<float> tile(n_users * width, NAN);
    in_two_threads(n_users, [&](int64_t begin, int64_t end) {
      kernels::gumbel_tile(noise, crow, col, users.data(), lse.data(), first, first + width, tile.data(), begin, end);
    });
    for (int64_t r = 0; r < n_users; ++r) {
      for (int64_t j = 0; j < width; ++j) {
        const double row = rows[r * n_items + first + j];
        const double exponent = row > 0 ? std::fabs(std::log(row)) * 0x1p-22 : 0;  // two float32 roundings of log(row)
        const double allowed = noise.tau < 0.1 ? 1e-5 : (1e-5 + exponent) * row + 1e-30;
        CHECK(std::fabs(tile[r * width + j] - row) <= allowed, "row %lld: %g, not %g", (long long)r,
              tile[r * width + j], row);
      }
    }
  }
  for (int64_t r = 0; r < n_users; ++r) {
    double sum = 0, square = 0;
    for (int64_t i = 0; i < n_items; ++i) {
      sum += rows[r * n_items + i];
      square += added[r * n_items + i] * added[r * n_items + i];
      const double unscaled = added[r * n_items + i] / norm[r];
      CHECK(std::fabs(unscaled - 1 - rows[r * n_items + i]) <= 1e-4, "row %lld: %g", (long long)r, unscaled);
    }
    for (int64_t i = 0; r > 0 && users[r] == users[r - 1] && i < n_items; ++i) {
      CHECK(rows[r * n_items + i] == rows[(r - 1) * n_items + i], "rows %lld and the one before", (long long)r);
    }
    CHECK(std::fabs(sum - 1) <= 1e-5 && std::fabs(square - 1) <= 1e-5, "row %lld: sum %g, square %g", (long long)r, sum,
          square);
  }
}

template <typename Index>
void order_statistics_are_softmax(int64_t n_users, int64_t n_items, uint32_t percent, mmssl::GumbelNoise noise) {
  const Graph<Index> graph(n_users, n_items, percent);
  mmssl::OrderStatistics order(noise, n_items);
  for (int64_t u = 0; u < n_users; ++u) {
    const int64_t n_seen = graph.crow[u + 1] - graph.crow[u];
    double sum = 0;
    int64_t previous = -1, seen = 0;
    for (const mmssl::RowEntry& entry : order.row(u, graph.col.data() + graph.crow[u], n_seen)) {
      CHECK(previous < entry.item && entry.item < n_items, "item %lld after %lld", (long long)entry.item,
            (long long)previous);
      for (int64_t e = graph.crow[u]; e < graph.crow[u + 1]; ++e) seen += graph.col[e] == entry.item;
      previous = entry.item;
      sum += entry.value;
    }
    CHECK(seen == n_seen && std::fabs(sum - 1) <= 1e-12, "user %lld: %lld of %lld seen, sum %g", (long long)u,
          (long long)seen, (long long)n_seen, sum);
  }
}

template <typename Index>
void run(int64_t n_users, int64_t n_items, uint32_t percent) {
  for (double tau : {1e-3, 0.2, 0.325, 2.0}) {
    rows_are_softmax<float, Index>(n_users, n_items, percent, {tau, 1.0, 12345, 6});
    rows_are_softmax<double, Index>(n_users, n_items, percent, {tau, 1.0, 12345, 6});
  }
  rows_are_softmax<float, Index>(n_users, n_items, percent, {0.5, 0.0, 12345, 6});
  for (double tau : {1e-3, 0.2, 0.6, 0.99}) {
    order_statistics_are_softmax<Index>(n_users, n_items, percent, {tau, 1.0, 12345, 6});
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  for (int64_t n : {1, 15, 16, 17, 401}) words_equal_definition(n);
  run<int32_t>(41, 401, 5);
  run<int64_t>(7, 1271, 1);
  run<int32_t>(3, 1, 50);
  run<int64_t>(9, 64, 100);
  run<int32_t>(5, 256, 0);
  std::puts("ok");
}
