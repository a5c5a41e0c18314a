// Counting sorts of coordinates by row and by column. Serial: they are bound by memory, at a few nanoseconds an entry.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mmssl {

// What count found. bad: the first entry whose id is outside [0, n), or -1; offsets are then incomplete.
struct Counted {
  int64_t bad;
  bool ascends;
};

// offset[r] becomes the number of ids below r, for r in [0, n].
template <typename In>
Counted count_ids(const In* ids, int64_t nnz, int64_t n, int64_t* offset) {
  std::fill(offset, offset + n + 1, 0);
  bool ascends = true;
  int64_t last = 0;
  for (int64_t e = 0; e < nnz; ++e) {
    const int64_t id = ids[e];
    if (id < 0 || id >= n) return {e, ascends};
    ascends &= id >= last;
    last = id;
    ++offset[id + 1];
  }
  for (int64_t r = 0; r < n; ++r) offset[r + 1] += offset[r];
  return {-1, ascends};
}

// Sorts by row, which is a copy if the rows ascend, and then by column. Both sorts are stable. What is sorted with the
// ids is item(e) for each entry e: e itself for the orders, or a value of it.
template <typename In, typename Out, typename T, typename Item>
void sort_both(const In* row, const In* col, Item item, int64_t n_rows, int64_t n_cols,
               const int64_t* crow,    // [n_rows + 1]
               const int64_t* t_crow,  // [n_cols + 1]
               bool ascends,
               Out* next,      // room for the larger number of rows or columns
               Out* by_row,    // [nnz], the columns sorted by row
               T* sorted,      // [nnz], the items of these
               Out* by_col,    // [nnz], the rows sorted by column
               T* t_sorted) {  // [nnz], the items of these
  const Out nnz = static_cast<Out>(crow[n_rows]);
  const auto put = [&](Out place, Out e) {
    by_row[place] = static_cast<Out>(col[e]);
    sorted[place] = item(e);
  };
  if (ascends) {
    for (Out e = 0; e < nnz; ++e) put(e, e);
  } else {
    std::copy(crow, crow + n_rows, next);
    for (Out e = 0; e < nnz; ++e) put(next[row[e]]++, e);
  }
  std::copy(t_crow, t_crow + n_cols, next);
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t k = crow[r]; k < crow[r + 1]; ++k) {
      const Out place = next[by_row[k]]++;
      by_col[place] = static_cast<Out>(r);
      t_sorted[place] = sorted[k];
    }
  }
}

}  // namespace mmssl
