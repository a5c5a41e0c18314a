// The kernel of spmm with and without each optional factor, over random blocks, two threads at once.
#include "cpu/isa/spmm.h"

#include "values.h"

namespace {

template <typename T, typename A, typename Index>
void run(int64_t rows, int64_t columns, int64_t d, bool scaled, double tolerance) {
  Random random(rows * 1000 + columns + d);
  const Block<Index> block = random_block<Index>(random, rows, columns, 0.2);
  const std::vector<T> x = random_values<T>(random, columns * d), base = random_values<T>(random, rows * d);
  const std::vector<A> weight = random_values<A>(random, block.nnz());
  const std::vector<A> row_scale = random_values<A>(random, rows), col_scale = random_values<A>(random, columns);
  std::vector<T> y(rows * d, make<T>(NAN)), total(rows * d, make<T>(NAN));
  mmssl::SpmmArgs<T, A, Index> args{};
  args.crow = block.crow.data();
  args.col = block.col.data();
  args.value = scaled ? weight.data() : nullptr;
  args.row_scale = scaled ? row_scale.data() : nullptr;
  args.col_scale = scaled ? col_scale.data() : nullptr;
  args.x = x.data();
  args.base = base.data();
  args.y = y.data();
  args.total = total.data();
  args.d = args.x_stride = args.base_stride = args.total_stride = d;
  args.factor = static_cast<A>(0.5);
  in_two_threads(rows, [&](int64_t begin, int64_t end) { mmssl::MMSSL_ISA::spmm_rows(args, begin, end); });

  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < d; ++j) {
      double sum = 0;
      for (int64_t e = block.crow[r]; e < block.crow[r + 1]; ++e) {
        const int64_t c = block.col[e];
        sum += (scaled ? value(weight[e]) * value(col_scale[c]) : 1.0) * value(x[c * d + j]);
      }
      if (scaled) sum *= value(row_scale[r]);
      const double mean = (value(base[r * d + j]) + sum) * 0.5;
      CHECK(std::fabs(value(y[r * d + j]) - sum) <= tolerance * (columns + 1), "y[%lld, %lld]: %g, not %g",
            (long long)r, (long long)j, value(y[r * d + j]), sum);
      CHECK(std::fabs(value(total[r * d + j]) - mean) <= tolerance * (columns + 1), "total[%lld, %lld]: %g, not %g",
            (long long)r, (long long)j, value(total[r * d + j]), mean);
    }
  }
}

template <typename T, typename A>
void run_shapes(double tolerance) {
  for (int64_t d : {1, 7, 31, 64, 65, 130}) {
    for (bool scaled : {false, true}) {
      run<T, A, int32_t>(41, 57, d, scaled, tolerance);
      run<T, A, int64_t>(3, 1, d, scaled, tolerance);
    }
  }
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  run_shapes<float, float>(1e-6);
  run_shapes<double, double>(1e-14);
  run_shapes<mmssl::BFloat16, float>(1e-2);
  const std::vector<int32_t> columns = {0, 3, 2, 3};
  CHECK(mmssl::MMSSL_ISA::columns_in_range(columns.data(), 0, 4, 4), "all lie in [0, 4)");
  CHECK(!mmssl::MMSSL_ISA::columns_in_range(columns.data(), 1, 4, 3), "3 is outside [0, 3)");
  std::puts("ok");
}
