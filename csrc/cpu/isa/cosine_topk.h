// Kernels of cosine_topk. Included through common/each_isa.h, so there is no include guard. T is float or double. Index
// is int32_t or int64_t.
//
// Limited by arithmetic: 2 d operations per similarity. A tile of similarities is computed in registers, with every sum
// in the order of the columns, so that the bits depend neither on the tiling nor on the number of threads. The tile is
// compared in registers with the bars of its rows, and written to memory only if a similarity is above its bar. This is
// rare after a first tile has set the bars.
//
// The candidates of a row are a short list, sorted by item, whose values are stored as integers of the same order. A
// value above the bar of the row is appended. When the list is full, the k best candidates are kept, and the k-th best
// value becomes the bar. There is no heap: the k-th best value is found, and short lists are sorted, by counting
// comparisons, which can be vectorised. Long lists are sorted by radix, because n log n comparisons, of which half are
// mispredicted, would cost more than the similarities.
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

// The capacity of a list: twice k, rounded up to whole vectors, at least k + 64, and at most what `width` items need,
// with which the list cannot become full. k is at most the width, unless there are fewer items than k.
constexpr int64_t topk_capacity(int64_t k, int64_t width) {
  const int64_t twice = topk_rounded(k) + (k > 64 ? topk_rounded(k) : 64);
  return twice < topk_rounded(width) ? twice : topk_rounded(width);
}

constexpr int64_t kTopkFirst = 1024;      // items of the first tile, which sets the bars
constexpr int64_t kTopkItems = 12;        // minimum number of rows of v, of which the last may be padding
constexpr int64_t kTopkPanelBytes = 128;  // a panel has as many rows as there are values of T in this many bytes

// Rows rounded up to whole panels.
template <typename T>
constexpr int64_t topk_panel_rows(int64_t rows) {
  constexpr int64_t kPanel = kTopkPanelBytes / static_cast<int64_t>(sizeof(T));
  return (rows + kPanel - 1) / kPanel * kPanel;
}

// Adds the items [first_item, last_item) to the candidates of the rows; n = topk_panel_rows(rows).
template <typename T, typename Index>
void cosine_topk_search(const T* u,  // [rows, d]
                        const T* v,  // [at least max(last_item, kTopkItems), d]
                        int64_t rows, int64_t d, int64_t first_item, int64_t last_item,
                        const int64_t* crow,          // [rows + 1], or nullptr if there are no seen items
                        const Index* col,             // [nnz], ascending within a row
                        int64_t k, int64_t capacity,  // topk_capacity(k, at least last_item - first_item)
                        T* packed,                    // [n, d], overwritten
                        T* scores,                    // [kTopkFirst, topk_panel_rows(1)], overwritten
                        int64_t* cursor,              // [n], overwritten
                        topk_key_t<T>* keys,          // [n, capacity]: the candidates
                        int32_t* items,               // [n, capacity]
                        int64_t* count,               // [n]: their number per row
                        T* bar);                      // [n]

// Writes the k best candidates of every row, best first, equal values ordered by item. If there are fewer than k, the
// rest has item -1 and value -inf.
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

// Merges the k best items of all parts of the catalogue, for the rows [begin, end).
template <typename T>
void cosine_topk_merge(int64_t parts, int64_t k,
                       const T* part_best,         // [n_rows, parts, k], parts in ascending order of item
                       const int64_t* part_items,  // [n_rows, parts, k]
                       T* best,                    // [n_rows, k]
                       int64_t* best_items,        // [n_rows, k]
                       int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
