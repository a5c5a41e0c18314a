// Kernels of cosine_topk. Included through common/each_isa.h: no include guard. T: float, double. Index: int32_t,
// int64_t.
//
// Bound by arithmetic: 2 d flops a similarity. A tile of them is formed in registers, every sum in ascending order of
// the column, so that no tiling and no number of threads changes a bit, and is compared with its rows' bars there: it
// goes to memory only when one of them is above, which is rare once a first tile has set the bars.
//
// A row's candidates are a short list in ascending order of item, each value as an integer that sorts as the value
// does. A value above the row's bar is appended; when the list is full the k best stay, in order, and the k-th becomes
// the bar. No heap: finding the k-th best and sorting short lists are counts of comparisons, which vectorise. Long
// lists are sorted by radix: n log n comparisons, mispredicted half the time, would cost more than the similarities.
#include <cstdint>

namespace mmssl::MMSSL_ISA {

template <typename T>
struct TopkKey;
template <>
struct TopkKey<float> {
  using type = int32_t;
};
template <>
struct TopkKey<double> {
  using type = int64_t;
};
template <typename T>
using topk_key_t = typename TopkKey<T>::type;

constexpr int64_t topk_rounded(int64_t n) { return (n + 15) / 16 * 16; }

// The list's room for candidates: twice k rounded up to whole vectors, and at least 64 beside the k, but never more
// than `width` items need, a list that cannot fill up. k is at most the width unless there are fewer items than k.
constexpr int64_t topk_capacity(int64_t k, int64_t width) {
  const int64_t twice = topk_rounded(k) + (k > 64 ? topk_rounded(k) : 64);
  return twice < topk_rounded(width) ? twice : topk_rounded(width);
}

constexpr int64_t kTopkFirst = 1024;      // items of the tile that sets the bars
constexpr int64_t kTopkItems = 12;        // v must have so many rows at least, of which the last may be no items
constexpr int64_t kTopkPanelBytes = 128;  // rows are taken this many bytes' worth at a time

// Rows rounded up to whole panels.
template <typename T>
constexpr int64_t topk_panel_rows(int64_t rows) {
  constexpr int64_t kPanel = kTopkPanelBytes / static_cast<int64_t>(sizeof(T));
  return (rows + kPanel - 1) / kPanel * kPanel;
}

// Takes the items [first_item, last_item) of the similarities u vᵀ; n rows, n = topk_panel_rows(rows).
template <typename T, typename Index>
void cosine_topk_search(const T* u,  // [rows, d]
                        const T* v,  // [at least max(last_item, kTopkItems), d]
                        int64_t rows, int64_t d, int64_t first_item, int64_t last_item,
                        const int64_t* crow,          // [rows + 1], or nullptr: nothing is seen
                        const Index* col,             // [nnz], ascending within a row
                        int64_t k, int64_t capacity,  // topk_capacity(k, at least last_item - first_item)
                        T* packed,                    // [n, d], overwritten
                        T* scores,                    // [kTopkFirst, topk_panel_rows(1)], overwritten
                        int64_t* cursor,              // [n], overwritten
                        topk_key_t<T>* keys,          // [n, capacity]: the candidates
                        int32_t* items,               // [n, capacity]
                        int64_t* count,               // [n]: how many a row has
                        T* bar);                      // [n]

// Writes each row's k best, best first, ties to the lower item; item -1 and value -inf where fewer than k were found.
template <typename T>
void cosine_topk_take(int64_t rows, int64_t k, int64_t capacity,
                      topk_key_t<T>* keys,        // [rows, capacity], overwritten
                      int32_t* items,             // [rows, capacity], overwritten
                      const int64_t* count,       // [rows]
                      topk_key_t<T>* other_keys,  // [capacity], overwritten
                      int32_t* other_items,       // [capacity], overwritten
                      T* best,                    // [rows, k]
                      int64_t* best_items,        // [rows, k]
                      int64_t stride);            // between the rows of best and best_items

// Merges the k best of every part of the catalogue into the k best of all, for the rows [begin, end).
template <typename T>
void cosine_topk_merge(int64_t parts, int64_t k,
                       const T* part_best,         // [n_rows, parts, k], parts in ascending order of item
                       const int64_t* part_items,  // [n_rows, parts, k]
                       T* best,                    // [n_rows, k]
                       int64_t* best_items,        // [n_rows, k]
                       int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
