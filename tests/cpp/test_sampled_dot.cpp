// The kernels of sampled_dot over random CSR blocks, arrays of exactly the size they need, two threads at once.
#include "cpu/isa/sampled_dot.h"

#include <cmath>
#include <vector>

#include "check.h"

namespace {

template <typename T>
double value(T x) {
  return x;
}
double value(mmssl::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof(y));
  return y;
}
template <typename T>
T make(double x) {
  return static_cast<T>(x);
}
template <>
mmssl::BFloat16 make(double x) {
  const float y = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &y, sizeof(bits));
  return {static_cast<uint16_t>(bits >> 16)};
}

template <typename T>
std::vector<T> random_values(Random& random, int64_t n) {
  std::vector<T> x(n);
  for (T& each : x) each = make<T>(random.uniform());
  return x;
}

template <typename T, typename Index>
void run(int64_t rows, int64_t items, int64_t d, int64_t most, double tolerance) {
  Random random(rows * 1000 + items);
  std::vector<int64_t> crow(rows + 1, 0);
  std::vector<Index> col;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = random.below(most + 1); n > 0; --n) col.push_back(static_cast<Index>(random.below(items)));
    crow[r + 1] = static_cast<int64_t>(col.size());
  }
  col.shrink_to_fit();
  const int64_t nnz = crow[rows];
  const std::vector<T> u = random_values<T>(random, rows * d), v = random_values<T>(random, items * d);
  std::vector<T> s(nnz, make<T>(NAN));
  in_two_threads(rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::sampled_dot_fwd(crow.data(), col.data(), u.data(), v.data(), d, s.data(), begin, end);
  });
  std::vector<T> du(rows * d, make<T>(NAN));
  in_two_threads(rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::sampled_dot_bwd(crow.data(), col.data(), static_cast<const int64_t*>(nullptr), s.data(), v.data(),
                                      d, du.data(), begin, end);
  });
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> truth(d, 0.0);
    for (int64_t e = crow[r]; e < crow[r + 1]; ++e) {
      double dot = 0;
      for (int64_t j = 0; j < d; ++j) dot += value(u[r * d + j]) * value(v[col[e] * d + j]);
      CHECK(std::fabs(value(s[e]) - dot) <= tolerance * (d + 1), "s[%lld] = %g, not %g", (long long)e, value(s[e]),
            dot);
      for (int64_t j = 0; j < d; ++j) truth[j] += value(s[e]) * value(v[col[e] * d + j]);
    }
    for (int64_t j = 0; j < d; ++j) {
      CHECK(std::fabs(value(du[r * d + j]) - truth[j]) <= tolerance * (d + 1) * (most + 1),
            "du[%lld, %lld] = %g, not %g", (long long)r, (long long)j, value(du[r * d + j]), truth[j]);
    }
  }
}

template <typename T>
void run_shapes(double tolerance) {
  for (int64_t d : {1, 7, 64, 65, 130}) {
    run<T, int32_t>(41, 401, d, 9, tolerance);
    run<T, int64_t>(1, 1, d, 3, tolerance);
    run<T, int64_t>(13, 5, d, 0, tolerance);
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
