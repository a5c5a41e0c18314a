// Kernels of cosine_topk. Included through common/each_isa.h: no include guard. T: float, double. Index: int32_t,
// int64_t.
//
// A row's candidates are a short list in ascending order of item, each value as an integer that sorts as the value
// does. A value above the row's bar is appended; when the list is full the k best stay, in order, and the k-th becomes
// the bar. No heap: finding the k-th best and sorting are counts of comparisons, which vectorise.
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

// The list's room for candidates: twice k rounded up to whole vectors, and at least 64 beside the k.
constexpr int64_t topk_rounded(int64_t n) { return (n + 15) / 16 * 16; }
constexpr int64_t topk_capacity(int64_t k) { return topk_rounded(k) + (k > 64 ? topk_rounded(k) : 64); }

// Takes the items [first_item, first_item + width) of a tile of rows. Tiles must come in ascending order of item: of
// equal values the earlier stays. A value that is NaN or -inf is never taken.
template <typename T, typename Index>
void cosine_topk_scan(T* scores,  // [rows, stride]; seen entries are set to -inf
                      int64_t rows, int64_t stride, int64_t first_item, int64_t width,
                      const int64_t* crow,  // [rows + 1], or nullptr: nothing is seen
                      const Index* col,     // [nnz], ascending within a row
                      int64_t* cursor,      // [rows]: where the row's walk through col has come to
                      int64_t k,
                      topk_key_t<T>* keys,  // [rows, capacity(k)]
                      int32_t* items,       // [rows, capacity(k)]
                      int64_t* count,       // [rows]: candidates a row has; negative before its first tile
                      T* bar);              // [rows]

// Writes each row's k best, best first, ties to the lower item; item -1 and value -inf where fewer than k were found.
template <typename T>
void cosine_topk_take(int64_t rows, int64_t k,
                      topk_key_t<T>* keys,   // [rows, capacity(k)], overwritten
                      int32_t* items,        // [rows, capacity(k)], overwritten
                      const int64_t* count,  // [rows]
                      T* best,               // [rows, k]
                      int64_t* best_items,   // [rows, k]
                      int64_t stride);       // between the rows of best and best_items

// Merges the k best of every part of the catalogue into the k best of all, for the rows [begin, end).
template <typename T>
void cosine_topk_merge(int64_t parts, int64_t k,
                       const T* part_best,         // [n_rows, parts, k], parts in ascending order of item
                       const int64_t* part_items,  // [n_rows, parts, k]
                       T* best,                    // [n_rows, k]
                       int64_t* best_items,        // [n_rows, k]
                       int64_t begin, int64_t end);

}  // namespace mmssl::MMSSL_ISA
