// Counting sorts of coordinates by row and by column. Serial: they are bound by memory, at a few nanoseconds an entry.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

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

// Sorts by row, which is a copy if the rows ascend. The sort is stable. put(place, e) is called for the place of each
// entry e, `next` has room for the rows.
template <typename In, typename Out, typename Put>
void sort_by_row(const In* row, int64_t n_rows,
                 const int64_t* crow,  // [n_rows + 1]
                 bool ascends, Out* next, Put put) {
  const int64_t nnz = crow[n_rows];
  if (ascends) {
    for (int64_t e = 0; e < nnz; ++e) put(static_cast<Out>(e), static_cast<Out>(e));
    return;
  }
  std::copy(crow, crow + n_rows, next);
  for (int64_t e = 0; e < nnz; ++e) put(next[row[e]]++, static_cast<Out>(e));
}

// Sorts entries that are sorted by row by column. The sort is stable. put(place, row, k) is called for the place of
// each entry k, `next` has room for the columns.
template <typename Out, typename Put>
void sort_by_column(int64_t n_rows, int64_t n_cols,
                    const int64_t* crow,    // [n_rows + 1]
                    const Out* by_row,      // [nnz], the columns sorted by row
                    const int64_t* t_crow,  // [n_cols + 1]
                    Out* next, Put put) {
  std::copy(t_crow, t_crow + n_cols, next);
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t k = crow[r]; k < crow[r + 1]; ++k) put(next[by_row[k]]++, static_cast<Out>(r), k);
  }
}

// Both sorts, with the order of the entries.
template <typename In, typename Out>
void sort_orders(const In* row, const In* col, int64_t n_rows, int64_t n_cols,
                 const int64_t* crow,    // [n_rows + 1]
                 const int64_t* t_crow,  // [n_cols + 1]
                 bool ascends,
                 Out* next,       // room for the larger number of rows or columns
                 Out* by_row,     // [nnz], the columns sorted by row
                 Out* order,      // [nnz], the entry that each of these is
                 Out* by_col,     // [nnz], the rows sorted by column
                 Out* t_order) {  // [nnz], the entry that each of these is
  sort_by_row(row, n_rows, crow, ascends, next, [&](Out place, Out e) {
    by_row[place] = static_cast<Out>(col[e]);
    order[place] = e;
  });
  sort_by_column(n_rows, n_cols, crow, by_row, t_crow, next, [&](Out place, Out r, int64_t k) {
    by_col[place] = r;
    t_order[place] = order[k];
  });
}

// Both sorts, with the values of the entries.
template <typename In, typename Out, typename T>
void sort_values(const In* row, const In* col, const T* value, int64_t n_rows, int64_t n_cols,
                 const int64_t* crow,    // [n_rows + 1]
                 const int64_t* t_crow,  // [n_cols + 1]
                 bool ascends,
                 Out* next,      // room for the larger number of rows or columns
                 Out* by_row,    // [nnz], the columns sorted by row
                 T* sorted,      // [nnz], the values of these
                 Out* by_col,    // [nnz], the rows sorted by column
                 T* t_sorted) {  // [nnz], the values of these
  sort_by_row(row, n_rows, crow, ascends, next, [&](Out place, Out e) {
    by_row[place] = static_cast<Out>(col[e]);
    sorted[place] = value[e];
  });
  sort_by_column(n_rows, n_cols, crow, by_row, t_crow, next, [&](Out place, Out r, int64_t k) {
    by_col[place] = r;
    t_sorted[place] = sorted[k];
  });
}

}  // namespace mmssl
