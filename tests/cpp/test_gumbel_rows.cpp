// Dense Gumbel rows: every row sums to one, and tiles of it are the row, whatever the number of items.
#include "cpu/isa/gumbel_rows.h"

#include "values.h"

namespace {

template <typename Index>
void run(int64_t n_items, double tau) {
  Random random(n_items);
  const Block<Index> graph = random_block<Index>(random, 9, n_items, 0.1);
  const std::vector<int64_t> users = {8, 0, 3, 3, 7};
  const int64_t rows = static_cast<int64_t>(users.size());
  const mmssl::GumbelNoise noise{tau, 1.0, 12345, 6};
  std::vector<float> whole(rows * n_items, NAN), inv_norm(rows, NAN);
  std::vector<double> lse(rows, NAN);
  float* no_scratch = nullptr;
  in_two_threads(rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::gumbel_softmax(noise, graph.crow.data(), graph.col.data(), users.data(), n_items, false, false,
                                     whole.data(), inv_norm.data(), no_scratch, begin, end);
    mmssl::MMSSL_ISA::gumbel_lse(noise, graph.crow.data(), graph.col.data(), users.data(), n_items, lse.data(), begin,
                                 end);
  });
  // Tiles begin at multiples of 64 columns, as the bindings cut them.
  for (int64_t first = 0; first < n_items; first += 128) {
    const int64_t last = n_items - first < 128 ? n_items : first + 128, width = last - first;
    std::vector<float> tile(rows * width, NAN);
    mmssl::MMSSL_ISA::gumbel_tile(noise, graph.crow.data(), graph.col.data(), users.data(), lse.data(), first, last,
                                  tile.data(), 0, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < width; ++j) {
        const float truth = whole[r * n_items + first + j];
        CHECK(std::fabs(tile[r * width + j] - truth) <= 1e-5 * truth + 1e-30, "row %lld, item %lld: %g, not %g",
              (long long)r, (long long)(first + j), tile[r * width + j], truth);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < n_items; ++i) sum += whole[r * n_items + i];
    CHECK(std::fabs(sum - 1) < 1e-5, "row %lld sums to %g", (long long)r, sum);
  }
  for (int64_t i = 0; i < n_items; ++i) {  // rows 2 and 3 are of the same user
    CHECK(whole[2 * n_items + i] == whole[3 * n_items + i], "item %lld", (long long)i);
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  for (int64_t n_items : {1, 3, 63, 64, 65, 401, 1271}) {
    run<int32_t>(n_items, 0.5);
    run<int64_t>(n_items, 0.085);
  }
  std::puts("ok");
}
