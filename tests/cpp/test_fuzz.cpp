// The generator and everything that walks a CSR, on random sizes, contents and splits between threads, against the
// plain loop: under the sanitizers every array ends where it must. `test_fuzz_<level> ROUNDS SEED` runs longer.
#include <algorithm>
#include <limits>

#include "common/philox.h"
#include "cpu/isa/philox.h"
#include "cpu/isa/sampled_dot.h"
#include "cpu/isa/spmm.h"
#include "values.h"

namespace {

uint64_t word64(Random& random) { return static_cast<uint64_t>(random.bits()) << 32 | random.bits(); }

// Sizes around the widths of registers and tiles more often than others.
int64_t size(Random& random, int64_t most) {
  const int64_t powers[] = {0, 1, 2, 4, 8, 16, 32, 64, 128};
  const int64_t near = powers[random.below(9)] + random.below(3) - 1;
  return std::min(most, std::max<int64_t>(0, random.below(2) ? near : random.below(most + 1)));
}

// f(begin, end) over up to four pieces of [0, n), in any order.
template <typename F>
void in_pieces(Random& random, int64_t n, F f) {
  std::vector<int64_t> cuts{0, random.below(n + 1), random.below(n + 1), n};
  std::sort(cuts.begin(), cuts.end());
  const int64_t start = random.below(3);
  for (int64_t k = 0; k < 3; ++k) f(cuts[(start + k) % 3], cuts[(start + k) % 3 + 1]);
}

void philox(Random& random) {
  const uint64_t seed = word64(random);
  const uint32_t offset = random.bits(), stream = random.below(3) ? random.below(8) : random.bits();
  const int64_t n_rows = size(random, 9), columns = size(random, 300);
  std::vector<int64_t> rows(n_rows), bits(n_rows * columns, -1);
  for (int64_t& row : rows) row = static_cast<int64_t>(word64(random));
  in_pieces(random, n_rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::philox_bits(seed, offset, stream, rows.data(), columns, bits.data(), begin, end);
  });
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      const mmssl::Philox4 truth = mmssl::philox4x32(mmssl::philox_key(seed), static_cast<uint32_t>(j / 4),
                                                     static_cast<uint32_t>(rows[r]), offset, stream);
      CHECK(bits[r * columns + j] == truth.word[j % 4], "row %lld, column %lld", (long long)rows[r], (long long)j);
    }
  }
  const int64_t first = random.below(int64_t{1} << 31), n = size(random, 200);
  std::vector<uint64_t> words(n);
  mmssl::MMSSL_ISA::philox_words(seed, offset, stream, first, n, words.data());
  for (int64_t j = 0; j < n; ++j) {
    const mmssl::Philox4 truth =
        mmssl::philox4x32(mmssl::philox_key(seed), static_cast<uint32_t>(first + j), 0, offset, stream);
    CHECK(words[j] == (static_cast<uint64_t>(truth.word[1]) << 32 | truth.word[0]), "word %lld", (long long)j);
    const int64_t bound = 1 + random.below(std::numeric_limits<int32_t>::max());
    const int64_t place = mmssl::uniform64(truth.word[0], truth.word[1], bound);
    CHECK(place >= 0 && place < bound, "%lld is not below %lld", (long long)place, (long long)bound);
  }
}

template <typename Index>
void columns_in_range(Random& random) {
  const int64_t n = size(random, 200), n_cols = random.below(3) ? size(random, 100) : std::numeric_limits<Index>::max();
  std::vector<Index> col(n);
  for (Index& each : col) each = static_cast<Index>(n_cols > 0 ? random.below(std::min<int64_t>(n_cols, 1 << 30)) : 0);
  for (int64_t bad = random.below(3); n > 0 && bad > 0; --bad) {
    const Index values[] = {static_cast<Index>(-1), std::numeric_limits<Index>::min(), static_cast<Index>(n_cols),
                            std::numeric_limits<Index>::max()};
    col[random.below(n)] = values[random.below(4)];
  }
  in_pieces(random, n, [&](int64_t begin, int64_t end) {
    bool truth = true;
    for (int64_t e = begin; e < end; ++e) truth = truth && col[e] >= 0 && static_cast<int64_t>(col[e]) < n_cols;
    CHECK((mmssl::MMSSL_ISA::columns_in_range(col.data(), begin, end, n_cols)) == truth, "of %lld columns [%lld, %lld)",
          (long long)n_cols, (long long)begin, (long long)end);
  });
}

template <typename T, typename A, typename Index>
void products(Random& random, double tolerance) {
  const int64_t rows = size(random, 20), cols = std::max<int64_t>(1, size(random, 40)), d = size(random, 130);
  const Block<Index> block = random_block<Index>(random, rows, cols, (random.uniform() + 1) / 2);
  const std::vector<int64_t>& crow = block.crow;
  const std::vector<Index>& col = block.col;
  const std::vector<T> u = random_values<T>(random, rows * d), v = random_values<T>(random, cols * d);
  std::vector<T> s(block.nnz(), make<T>(NAN)), y(rows * d, make<T>(NAN));
  in_pieces(random, rows, [&](int64_t begin, int64_t end) {
    mmssl::MMSSL_ISA::sampled_dot_fwd(crow.data(), col.data(), u.data(), v.data(), d, s.data(), begin, end);
  });
  mmssl::SpmmArgs<T, A, Index> args{};
  args.crow = crow.data();
  args.col = col.data();
  args.x = v.data();
  args.x_stride = args.d = d;
  args.y = y.data();
  args.factor = A(1);
  in_pieces(random, rows, [&](int64_t begin, int64_t end) { mmssl::MMSSL_ISA::spmm_rows(args, begin, end); });
  const std::vector<A> w = random_values<A>(random, block.nnz());
  std::vector<T> weighted(rows * d, make<T>(NAN));
  args.value = w.data();
  args.y = weighted.data();
  in_pieces(random, rows, [&](int64_t begin, int64_t end) { mmssl::MMSSL_ISA::spmm_rows(args, begin, end); });
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> sum(d), scaled(d);
    for (int64_t e = crow[r]; e < crow[r + 1]; ++e) {
      double dot = 0;
      for (int64_t j = 0; j < d; ++j) {
        dot += value(u[r * d + j]) * value(v[col[e] * d + j]);
        sum[j] += value(v[col[e] * d + j]);
        scaled[j] += w[e] * value(v[col[e] * d + j]);
      }
      CHECK(std::fabs(value(s[e]) - dot) <= tolerance * (d + 1), "s[%lld] = %g, not %g", (long long)e, value(s[e]),
            dot);
    }
    for (int64_t j = 0; j < d; ++j) {
      CHECK(std::fabs(value(y[r * d + j]) - sum[j]) <= tolerance * (cols + 1), "y[%lld, %lld]", (long long)r,
            (long long)j);
      CHECK(std::fabs(value(weighted[r * d + j]) - scaled[j]) <= tolerance * (cols + 1), "weighted[%lld, %lld]",
            (long long)r, (long long)j);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  skip_unless_level_is_here();
  const int64_t rounds = argc > 1 ? std::atoll(argv[1]) : 60;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  for (int64_t round = 0; round < rounds; ++round) {
    Random random(seed * 1000003 + round);
    philox(random);
    columns_in_range<int32_t>(random);
    columns_in_range<int64_t>(random);
    products<float, float, int32_t>(random, 1e-6);
    products<double, double, int64_t>(random, 1e-14);
    products<mmssl::BFloat16, float, int32_t>(random, 2e-2);
  }
  std::printf("%lld rounds from seed %llu\n", (long long)rounds, (unsigned long long)seed);
}
