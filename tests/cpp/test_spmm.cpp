// spmm_rows over random CSR blocks of every width, with each of its factors and outputs, two threads at once.
#include "cpu/isa/spmm.h"

#include "values.h"

namespace {

template <typename T, typename A, typename Index>
void run(int64_t rows, int64_t cols, int64_t d, double share, bool weighted, double tolerance) {
  Random random(rows * 1000 + d);
  const Block<Index> block = random_block<Index>(random, rows, cols, share);
  const std::vector<int64_t>& crow = block.crow;
  const std::vector<Index>& col = block.col;
  const std::vector<A> weight = random_values<A>(random, crow[rows]);
  const std::vector<A> row_scale = random_values<A>(random, rows), col_scale = random_values<A>(random, cols);
  const std::vector<T> x = random_values<T>(random, cols * d);
  // `total` has a column on either side and every row of it an untouched neighbour.
  const int64_t stride = d + 2;
  std::vector<int64_t> target(rows);
  // The target of a row without entries is not read.
  for (int64_t r = 0; r < rows; ++r) target[r] = crow[r] < crow[r + 1] ? 2 * (rows - 1 - r) : int64_t{1} << 60;
  const std::vector<T> base = random_values<T>(random, 2 * rows * stride);
  std::vector<T> total = base, y(rows * d, make<T>(NAN));
  const A factor = A(0.5);
  mmssl::SpmmArgs<T, A, Index> args{
      crow.data(), col.data(),    nullptr,          nullptr, nullptr,          x.data(), d,     d,
      y.data(),    target.data(), total.data() + 1, stride,  total.data() + 1, stride,   factor};
  if (weighted) {
    args.value = weight.data();
    args.row_scale = row_scale.data();
    args.col_scale = col_scale.data();
  }
  in_two_threads(rows, [&](int64_t begin, int64_t end) { mmssl::MMSSL_ISA::spmm_rows(args, begin, end); });

  std::vector<double> expected(total.size());
  for (size_t k = 0; k < base.size(); ++k) expected[k] = value(base[k]);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < d; ++j) {
      if (crow[r] == crow[r + 1]) {
        CHECK(std::isnan(value(y[r * d + j])), "y[%lld, %lld] was written, row %lld has no entries", (long long)r,
              (long long)j, (long long)r);
        continue;
      }
      double sum = 0;
      for (int64_t e = crow[r]; e < crow[r + 1]; ++e) {
        sum += (weighted ? weight[e] * col_scale[col[e]] : 1.0) * value(x[col[e] * d + j]);
      }
      if (weighted) sum *= row_scale[r];
      CHECK(std::fabs(value(y[r * d + j]) - sum) <= tolerance * (cols + 1), "y[%lld, %lld] = %g, not %g", (long long)r,
            (long long)j, value(y[r * d + j]), sum);
      double& place = expected[target[r] * stride + 1 + j];
      place = (place + sum) * factor;
    }
  }
  for (size_t k = 0; k < total.size(); ++k) {
    CHECK(std::fabs(value(total[k]) - expected[k]) <= tolerance * (cols + 2), "total[%zu] = %g, not %g", k,
          value(total[k]), expected[k]);
  }
}

template <typename T, typename A>
void run_widths(double tolerance) {
  for (int64_t d = 0; d < 160; d += d < 36 ? 1 : 7) {
    run<T, A, int32_t>(17, 23, d, 0.3, true, tolerance);
    run<T, A, int64_t>(5, 3, d, 0.6, false, tolerance);
  }
  run<T, A, int32_t>(1, 1, 64, 1.0, true, tolerance);
  run<T, A, int64_t>(13, 5, 33, 0.0, true, tolerance);
}

template <typename Index>
void columns() {
  const std::vector<Index> col{3, 0, 4, -1, 5};
  CHECK((mmssl::MMSSL_ISA::columns_in_range(col.data(), 0, 3, 5)), "0 to 4 are in range");
  CHECK((!mmssl::MMSSL_ISA::columns_in_range(col.data(), 0, 4, 5)), "-1 is not");
  CHECK((!mmssl::MMSSL_ISA::columns_in_range(col.data(), 4, 5, 5)), "5 is not");
  CHECK((mmssl::MMSSL_ISA::columns_in_range(col.data(), 2, 2, 0)), "nothing is in any range");
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_widths<float, float>(1e-6);
  run_widths<double, double>(1e-14);
  run_widths<mmssl::BFloat16, float>(1e-2);
  columns<int32_t>();
  columns<int64_t>();
  std::puts("ok");
}
