// The kernels of bpr_loss over random triples, arrays of exactly the size they need, two threads at once.
#include "cpu/isa/bpr_loss.h"

#include "values.h"

namespace {

template <typename T, typename A>
void run(int64_t users, int64_t items, int64_t d, int64_t batch, double tolerance) {
  Random random(d * 1000 + batch);
  const std::vector<T> u = random_values<T>(random, users * d), i = random_values<T>(random, items * d);
  std::vector<int64_t> crow(users + 1, 0);
  for (int64_t r = 0; r < users; ++r) crow[r + 1] = crow[r] + random.below(2 * batch / users + 2);
  const int64_t n = crow[users];
  std::vector<int64_t> triple(n), rows(users), user(n);
  for (int64_t b = 0; b < n; ++b) triple[b] = n - 1 - b;
  for (int64_t r = 0; r < users; ++r) {
    rows[r] = users - 1 - r;
    for (int64_t b = crow[r]; b < crow[r + 1]; ++b) user[triple[b]] = rows[r];
  }
  std::vector<int64_t> pos(n), neg(n);
  for (int64_t b = 0; b < n; ++b) {
    pos[b] = random.below(items);
    neg[b] = random.below(items);
  }
  std::vector<A> loss(n, NAN), slope(n, NAN);
  in_two_threads(n, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::bpr_loss_fwd(u.data(), d, i.data(), d, user.data(), pos.data(), neg.data(), d, loss.data(),
                                   slope.data(), begin, end);
  });
  std::vector<T> grad(users * d, make<T>(NAN));
  in_two_threads(users, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::bpr_loss_bwd_users(crow.data(), triple.data(), rows.data(), i.data(), d, pos.data(), neg.data(),
                                         slope.data(), d, grad.data(), begin, end);
  });

  std::vector<double> expected(users * d, 0.0);
  for (int64_t b = 0; b < n; ++b) {
    double margin = 0;
    for (int64_t j = 0; j < d; ++j) {
      const double difference = value(i[pos[b] * d + j]) - value(i[neg[b] * d + j]);
      margin += value(u[user[b] * d + j]) * difference;
      expected[user[b] * d + j] += slope[b] * difference;
    }
    CHECK(std::fabs(loss[b] - std::log1p(std::exp(-margin))) <= tolerance * (d + 1), "loss of margin %g is %g", margin,
          (double)loss[b]);
    CHECK(std::fabs(slope[b] + 1 / (1 + std::exp(margin))) <= tolerance * (d + 1), "slope of margin %g is %g", margin,
          (double)slope[b]);
  }
  for (size_t k = 0; k < grad.size(); ++k) {
    CHECK(std::fabs(value(grad[k]) - expected[k]) <= tolerance * (n + 1), "grad[%zu] = %g, not %g", k, value(grad[k]),
          expected[k]);
  }
}

template <typename T, typename A>
void run_shapes(double tolerance) {
  for (int64_t d : {0, 1, 7, 16, 33, 64, 65}) {
    run<T, A>(41, 101, d, 200, tolerance);
    run<T, A>(1, 1, d, 1, tolerance);
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_shapes<float, float>(2e-6);
  run_shapes<double, double>(1e-14);
  run_shapes<mmssl::BFloat16, float>(1e-2);
  std::puts("ok");
}
