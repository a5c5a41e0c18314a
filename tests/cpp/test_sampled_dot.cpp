// The kernels of sampled_dot over random CSR blocks, two threads at once.
#include "cpu/isa/sampled_dot.h"

#include "values.h"

namespace {

template <typename T, typename Index>
void run(int64_t rows, int64_t items, int64_t d, double share, double tolerance) {
  Random random(rows * 1000 + items);
  const Block<Index> block = random_block<Index>(random, rows, items, share);
  const std::vector<T> u = random_values<T>(random, rows * d), v = random_values<T>(random, items * d);
  std::vector<T> s(block.nnz(), make<T>(NAN));
  in_two_threads(rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::sampled_dot_fwd(block.crow.data(), block.col.data(), u.data(), v.data(), d, s.data(), begin, end);
  });
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t e = block.crow[r]; e < block.crow[r + 1]; ++e) {
      const T* item = v.data() + block.col[e] * d;
      double dot = 0;
      for (int64_t j = 0; j < d; ++j) dot += value(u[r * d + j]) * value(item[j]);
      CHECK(std::fabs(value(s[e]) - dot) <= tolerance * (d + 1), "entry %lld: %g, not %g", (long long)e, value(s[e]),
            dot);
    }
  }
}

template <typename T>
void run_shapes(double tolerance) {
  for (int64_t d : {1, 7, 64, 65, 130}) {
    run<T, int32_t>(41, 101, d, 0.1, tolerance);
    run<T, int64_t>(1, 1, d, 1.0, tolerance);
    run<T, int64_t>(13, 5, d, 0.0, tolerance);
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_shapes<float>(1e-6);
  run_shapes<double>(1e-14);
  run_shapes<mmssl::BFloat16>(1e-2);
  std::puts("ok");
}
