// The counting sorts of coo_to_csr against std::stable_sort, with arrays of exactly the size that they need.
#include "cpu/coo_to_csr.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "values.h"

namespace {

template <typename In>
std::vector<In> random_ids(Random& random, int64_t nnz, int64_t n) {
  std::vector<In> ids(nnz);
  for (In& id : ids) id = static_cast<In>(random.below(n));
  return ids;
}

template <typename In>
std::vector<int64_t> counted(const std::vector<In>& ids, int64_t n, bool& ascends) {
  std::vector<int64_t> offset(n + 1, -7);
  const mmssl::Counted found = mmssl::count_ids(ids.data(), static_cast<int64_t>(ids.size()), n, offset.data());
  CHECK(found.bad == -1, "entry %lld is refused", static_cast<long long>(found.bad));
  CHECK(found.ascends == std::is_sorted(ids.begin(), ids.end()), "ascends is %d", found.ascends);
  for (int64_t r = 0; r <= n; ++r) {
    const int64_t below = std::count_if(ids.begin(), ids.end(), [&](In id) { return id < r; });
    CHECK(offset[r] == below, "offset %lld is %lld", static_cast<long long>(r), static_cast<long long>(offset[r]));
  }
  ascends = found.ascends;
  return offset;
}

template <typename In, typename Out, typename T>
void run(int64_t nnz, int64_t n_rows, int64_t n_cols, bool ascending) {
  Random random(nnz * 1000 + n_rows);
  std::vector<In> row = random_ids<In>(random, nnz, n_rows);
  const std::vector<In> col = random_ids<In>(random, nnz, n_cols);
  if (ascending) std::sort(row.begin(), row.end());
  const std::vector<T> value = random_values<T>(random, nnz);
  bool ascends, columns_ascend;
  const std::vector<int64_t> crow = counted(row, n_rows, ascends), t_crow = counted(col, n_cols, columns_ascend);

  std::vector<Out> expected(nnz), t_expected(nnz);
  std::iota(expected.begin(), expected.end(), Out{0});
  std::stable_sort(expected.begin(), expected.end(), [&](Out a, Out b) { return row[a] < row[b]; });
  t_expected = expected;
  std::stable_sort(t_expected.begin(), t_expected.end(), [&](Out a, Out b) { return col[a] < col[b]; });

  std::vector<Out> next(std::max(n_rows, n_cols)), by_row(nnz), order(nnz), by_col(nnz), t_order(nnz);
  mmssl::sort_both(
      row.data(), col.data(), [](Out e) { return e; }, n_rows, n_cols, crow.data(), t_crow.data(), ascends, next.data(),
      by_row.data(), order.data(), by_col.data(), t_order.data());
  CHECK(order == expected, "order by row, %lld entries", static_cast<long long>(nnz));
  CHECK(t_order == t_expected, "order by column, %lld entries", static_cast<long long>(nnz));
  for (int64_t k = 0; k < nnz; ++k) {
    CHECK(by_row[k] == static_cast<Out>(col[expected[k]]), "column %lld", static_cast<long long>(k));
    CHECK(by_col[k] == static_cast<Out>(row[t_expected[k]]), "row %lld", static_cast<long long>(k));
  }

  std::vector<Out> same_by_row(nnz), same_by_col(nnz);
  std::vector<T> sorted(nnz), t_sorted(nnz);
  mmssl::sort_both(
      row.data(), col.data(), [&](Out e) { return value[e]; }, n_rows, n_cols, crow.data(), t_crow.data(), ascends,
      next.data(), same_by_row.data(), sorted.data(), same_by_col.data(), t_sorted.data());
  CHECK(same_by_row == by_row && same_by_col == by_col, "ids, %lld entries", static_cast<long long>(nnz));
  for (int64_t k = 0; k < nnz; ++k) {
    CHECK(sorted[k] == value[expected[k]], "value %lld by row", static_cast<long long>(k));
    CHECK(t_sorted[k] == value[t_expected[k]], "value %lld by column", static_cast<long long>(k));
  }
}

template <typename In>
void refuses(std::vector<In> ids, int64_t n, int64_t bad) {
  std::vector<int64_t> offset(n + 1);
  const mmssl::Counted found = mmssl::count_ids(ids.data(), static_cast<int64_t>(ids.size()), n, offset.data());
  CHECK(found.bad == bad, "entry %lld is refused, not %lld", static_cast<long long>(found.bad),
        static_cast<long long>(bad));
}

}  // namespace

int main() {
  skip_unless_level_is_here();
  for (bool ascending : {false, true}) {
    for (int64_t nnz : {0, 1, 7, 401, 2000}) {
      run<int64_t, int32_t, float>(nnz, 41, 101, ascending);
      run<int32_t, int32_t, double>(nnz, 101, 41, ascending);
      run<int32_t, int64_t, float>(nnz, 1, 13, ascending);
      run<int64_t, int64_t, double>(nnz, 13, 1, ascending);
    }
  }
  run<int64_t, int32_t, float>(0, 0, 0, false);
  refuses<int64_t>({0, 4, 5, 9}, 5, 2);
  refuses<int32_t>({0, -1}, 5, 1);
  refuses<int64_t>({int64_t{1} << 62}, 5, 0);
  refuses<int64_t>({0}, 0, 0);
}
