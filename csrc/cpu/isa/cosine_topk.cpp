// The kernels of cosine_topk: selection and sorting of candidates, the tile of similarities in registers, and the
// search that joins them. The file has over 400 lines, because all of it must be inlined into the search.
#include "cpu/isa/cosine_topk.h"

#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/isa/lanes.h"

namespace mmssl::MMSSL_ISA {
namespace {

template <typename T>
constexpr T kNothing = -static_cast<T>(__builtin_inf());

// An integer with the same order as the value. -0 and +0 have the same integer.
inline int32_t key_of(float x) {
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits ^ ((bits >> 31) & INT32_MAX);
}
inline int64_t key_of(double x) {
  x += 0.0;
  int64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits ^ ((bits >> 63) & INT64_MAX);
}
inline float value_of(int32_t key) {
  key ^= (key >> 31) & INT32_MAX;
  float x;
  std::memcpy(&x, &key, sizeof(x));
  return x;
}
inline double value_of(int64_t key) {
  key ^= (key >> 63) & INT64_MAX;
  double x;
  std::memcpy(&x, &key, sizeof(x));
  return x;
}

constexpr int32_t least_key(int32_t) { return INT32_MIN; }
constexpr int64_t least_key(int64_t) { return INT64_MIN; }

constexpr int64_t kVector = 16;

// Fills the last vector of keys[0, n) with the least key, and returns the number of keys in whole vectors.
template <typename Key>
inline int64_t pad(Key* keys, int64_t n) {
  const int64_t whole = topk_rounded(n);
  for (int64_t i = n; i < whole; ++i) keys[i] = least_key(Key{});
  return whole;
}

// The number of keys that are at least `key`. n is a multiple of kVector.
template <typename Key>
inline int64_t count_from(const Key* keys, int64_t n, Key key) {
  Key found[kVector] = {};
  for (int64_t start = 0; start < n; start += kVector) {
#pragma omp simd
    for (int64_t j = 0; j < kVector; ++j) found[j] += keys[start + j] >= key ? 1 : 0;
  }
  Key sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < kVector; ++j) sum += found[j];
  return sum;
}

// The k-th largest of at least k keys: the largest number that at least k keys reach, found bit by bit. Stops early at
// a number that exactly k keys reach. n is a multiple of kVector.
template <typename Key>
inline Key kth_key(const Key* keys, int64_t n, int64_t k) {
  constexpr int kBits = 8 * sizeof(Key);
  Key low = least_key(Key{});
  for (int bit = kBits - 1; bit >= 0; --bit) {
    const Key next = bit == kBits - 1 ? 0 : low + (Key{1} << bit);
    const int64_t reach = count_from(keys, n, next);
    if (reach >= k) low = next;
    if (reach == k) break;
  }
  return low;
}

// Keeps the k best of n > k candidates, in their order, and returns the bar that later items must exceed.
template <typename T>
inline T keep_best(topk_key_t<T>* keys, int32_t* items, int64_t n, int64_t k) {
  const int64_t whole = pad(keys, n);
  const auto kth = kth_key(keys, whole, k);
  int64_t ties = k - count_from(keys, whole, static_cast<topk_key_t<T>>(kth + 1));
  for (int64_t i = 0, kept = 0; kept < k; ++i) {
    const auto key = keys[i];
    const int64_t tie = key == kth && ties > 0 ? 1 : 0;
    ties -= tie;
    keys[kept] = key;
    items[kept] = items[i];
    kept += (key > kth ? 1 : 0) + tie;
  }
  return value_of(kth);
}

// Sorts keys[0, n), which are in ascending order of item, best first, by a stable radix sort from the lowest byte. The
// result is in `keys` or in `other`; returns whether it is in `other`.
template <typename Key>
inline bool radix_sort_best_first(Key* keys, int32_t* items, Key* other, int32_t* other_items, int64_t n) {
  using Bits = std::make_unsigned_t<Key>;
  constexpr int kBytes = sizeof(Key), kDigits = 256;
  // The largest key gets the lowest digits.
  const auto digit = [](Key key, int byte) {
    return static_cast<int>((static_cast<Bits>(~key) ^ static_cast<Bits>(least_key(Key{}))) >> (8 * byte) & 255);
  };
  int64_t place[kBytes][kDigits] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int byte = 0; byte < kBytes; ++byte) ++place[byte][digit(keys[i], byte)];
  }
  bool in_other = false;
  for (int byte = 0; byte < kBytes; ++byte) {
    const Key* from = in_other ? other : keys;
    if (place[byte][digit(from[0], byte)] == n) continue;  // all keys have the same digit
    const int32_t* from_items = in_other ? other_items : items;
    Key* to = in_other ? keys : other;
    int32_t* to_items = in_other ? items : other_items;
    int64_t before = 0;
    for (int64_t& start : place[byte]) {
      const int64_t count = start;
      start = before;
      before += count;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = place[byte][digit(from[i], byte)]++;
      to[at] = from[i];
      to_items[at] = from_items[i];
    }
    in_other = !in_other;
  }
  return in_other;
}

// Sorts like the function above. Short lists are sorted in runs of 64, by counting the keys before each key, and
// merged. Long lists are sorted by radix. `keys` and `other` have room for whole vectors.
constexpr int64_t kRun = 64, kRadix = 192;

template <typename Key>
inline bool sort_best_first(Key* keys, int32_t* items, Key* other, int32_t* other_items, int64_t n) {
  if (n > kRadix) return radix_sort_best_first(keys, items, other, other_items, n);
  const int64_t whole = pad(keys, n);
  for (int64_t start = 0; start < n; start += kRun) {
    const int64_t end = start + kRun < whole ? start + kRun : whole;
    for (int64_t i = start; i < end && i < n; ++i) {
      const Key key = keys[i];
      Key before[kVector] = {};
      for (int64_t group = start; group < end; group += kVector) {
#pragma omp simd
        for (int64_t j = 0; j < kVector; ++j) {
          before[j] += keys[group + j] > key || (keys[group + j] == key && group + j < i) ? 1 : 0;
        }
      }
      Key place = 0;
#pragma omp simd reduction(+ : place)
      for (int64_t j = 0; j < kVector; ++j) place += before[j];
      other[start + place] = key;
      other_items[start + place] = items[i];
    }
  }
  bool in_other = true;
  for (int64_t run = kRun; run < n; run *= 2, in_other = !in_other) {
    const Key* from = in_other ? other : keys;
    const int32_t* from_items = in_other ? other_items : items;
    Key* to = in_other ? keys : other;
    int32_t* to_items = in_other ? items : other_items;
    for (int64_t start = 0; start < n; start += 2 * run) {
      const int64_t middle = start + run < n ? start + run : n;
      const int64_t end = start + 2 * run < n ? start + 2 * run : n;
      int64_t a = start, b = middle;
      for (int64_t i = start; i < end; ++i) {
        const int64_t next = a == middle || (b < end && from[b] > from[a]) ? b++ : a++;
        to[i] = from[next];
        to_items[i] = from_items[next];
      }
    }
  }
  return in_other;
}

// The list of candidates of a row, to which the values above the bar are added.
template <typename T, typename Index>
struct Lists {
  const int64_t* crow;
  const Index* col;
  int64_t* cursor;
  int64_t k, capacity;
  topk_key_t<T>* keys;
  int32_t* items;
  int64_t* count;
  T* bar;

  // Items must come in ascending order.
  void offer(int64_t row, int64_t item, T score) {
    if (crow != nullptr) {
      int64_t e = cursor[row];
      while (e < crow[row + 1] && static_cast<int64_t>(col[e]) < item) ++e;
      cursor[row] = e;
      if (e < crow[row + 1] && static_cast<int64_t>(col[e]) == item) return;
    }
    topk_key_t<T>* list = keys + row * capacity;
    int32_t* list_items = items + row * capacity;
    int64_t n = count[row];
    if (n == capacity) {
      bar[row] = keep_best<T>(list, list_items, n, k);
      count[row] = n = k;
      if (!(score > bar[row])) return;
    }
    list[n] = key_of(score);
    list_items[n] = static_cast<int32_t>(item);
    count[row] = n + 1;
  }
};

// The number of items of a tile in registers, with two vectors of rows: 24 sums in the 32 registers of AVX-512, else 12
// sums in 16 registers.
#if defined(__AVX512F__)
constexpr int kTileItems = 12;
#else
constexpr int kTileItems = 6;
#endif
static_assert(kTileItems <= kTopkItems, "the last tile is moved back to end where the items do");

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
constexpr int kPanel = kTopkPanelBytes / static_cast<int>(sizeof(T));  // rows

// sums[n][w] are the similarities of vector w of the rows with item n of the tile.
template <typename T, int kVectors>
inline void tile_sums(const T* x,  // the tile's first row in its panel, [d, kPanel]
                      const T* v,  // [kTileItems, d]
                      int64_t d, Lanes<T> (&sums)[kTileItems][kVectors]) {
#pragma GCC unroll 12
  for (int n = 0; n < kTileItems; ++n) {
#pragma GCC unroll 2
    for (int w = 0; w < kVectors; ++w) sums[n][w] = Lanes<T>{};
  }
  // Three items share a pointer, and the second and third are addressed by index registers, because there are not
  // enough registers for a pointer per item.
  const T* items[kTileItems / 3];
  for (int n = 0; n < kTileItems; n += 3) items[n / 3] = v + n * d;
  for (const T* end = v + d; items[0] != end; x += kPanel<T>) {
    Lanes<T> rows[kVectors];
#pragma GCC unroll 2
    for (int w = 0; w < kVectors; ++w) rows[w] = load_lanes(x + w * kLanes<T>);
#pragma GCC unroll 12
    for (int n = 0; n < kTileItems; ++n) {
      const T item = items[n / 3][n % 3 * d];
#pragma GCC unroll 2
      for (int w = 0; w < kVectors; ++w) sums[n][w] += rows[w] * item;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kTileItems / 3; ++i) {
      ++items[i];
      asm("" : "+r"(items[i]));  // prevents the compiler from keeping one offset per item in memory
    }
  }
}

// Bit j is a[j] > b[j].
inline uint64_t above(Lanes<float> a, Lanes<float> b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
#else
  uint64_t bits = 0;
  for (int j = 0; j < kLanes<float>; ++j) bits |= static_cast<uint64_t>(a[j] > b[j]) << j;
  return bits;
#endif
}
inline uint64_t above(Lanes<double> a, Lanes<double> b) {
#if defined(__AVX512F__)
  return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  return static_cast<uint64_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ)));
#else
  uint64_t bits = 0;
  for (int j = 0; j < kLanes<double>; ++j) bits |= static_cast<uint64_t>(a[j] > b[j]) << j;
  return bits;
#endif
}

// A tile of similarities of the rows [row, row + kRows), which stays in registers unless it is stored.
template <typename T, int kVectors>
struct Tile {
  static constexpr int kRows = kVectors * kLanes<T>;
  using Sums = Lanes<T>[kTileItems][kVectors];

  // Adds the similarities with the items [item + begin, item + end) that are above the bars to the lists.
  template <typename Index>
  static void offer(const Sums& sums, int64_t row, int64_t item, int64_t begin, int64_t end, Lists<T, Index>& lists) {
    Lanes<T> bar[kVectors];
    uint64_t any = 0;
#pragma GCC unroll 2
    for (int w = 0; w < kVectors; ++w) {
      bar[w] = load_lanes(lists.bar + row + w * kLanes<T>);
      Lanes<T> most = bar[w];  // a NaN never replaces it
#pragma GCC unroll 12
      for (int n = 0; n < kTileItems; ++n) most = sums[n][w] > most ? sums[n][w] : most;
      any |= above(most, bar[w]);
    }
    if (any == 0) return;
    constexpr int kWords = (kTileItems * kRows + 63) / 64;
    uint64_t hits[kWords] = {};  // bit n kRows + r
    T scores[kTileItems][kRows];
#pragma GCC unroll 12
    for (int n = 0; n < kTileItems; ++n) {
#pragma GCC unroll 2
      for (int w = 0; w < kVectors; ++w) {
        const int bit = n * kRows + w * kLanes<T>;
        if (n >= begin && n < end) hits[bit / 64] |= above(sums[n][w], bar[w]) << (bit % 64);
        store_lanes(sums[n][w], &scores[n][w * kLanes<T>]);
      }
    }
    for (int word = 0; word < kWords; ++word) {
      for (uint64_t bits = hits[word]; bits != 0; bits &= bits - 1) {
        const int hit = 64 * word + __builtin_ctzll(bits), r = hit % kRows, n = hit / kRows;
        lists.offer(row + r, item + n, scores[n][r]);
      }
    }
  }
};

constexpr int64_t kMostGroups = 512;

// For a vector of rows, a bar that none of the k best of the `width` scores is below: the k-th largest of the maxima of
// disjoint groups. Only a few more than k values are above it. Without an initial bar, about k log(width / k) values
// would be added. scores: [width, kPanel], from the first row on.
template <typename T>
inline void first_bars(const T* scores, int64_t width, int64_t k, T* bar) {
  using Key = topk_key_t<T>;
  typedef Key Keys __attribute__((vector_size(kVectorBytes)));
  int64_t groups = 64;
  while (groups < 2 * k) groups *= 2;
  if (groups > kMostGroups || width < 4 * groups) {
    for (int j = 0; j < kLanes<T>; ++j) bar[j] = kNothing<T>;
    return;
  }
  Keys largest[kMostGroups];
  for (int64_t group = 0; group < groups; ++group) {
    Lanes<T> best = Lanes<T>{} + kNothing<T>;
    for (int64_t i = group; i < width; i += groups) {
      const Lanes<T> score = load_lanes(scores + i * kPanel<T>);
      best = score > best ? score : best;
    }
    for (int j = 0; j < kLanes<T>; ++j) largest[group][j] = key_of(best[j]);
  }
  // The k-th largest maximum, found bit by bit: the largest number that at least k maxima reach.
  Keys low = Keys{} + least_key(Key{});
  for (int bit = 8 * sizeof(Key) - 1; bit >= 0; --bit) {
    const Keys next = low ^ (Keys{} + static_cast<Key>(Key{1} << bit));
    Keys reach{};
    for (int64_t group = 0; group < groups; ++group) reach -= largest[group] >= next;
    low = reach >= static_cast<Key>(k) ? next : low;
  }
  for (int j = 0; j < kLanes<T>; ++j) {
    // Strictly below, because values equal to the k-th must be added, and by more than a denormal, which could be
    // flushed to zero.
    const T kth = value_of(low[j]);
    const T below = kth - (kth < 0 ? -kth : kth) * static_cast<T>(1e-6) - static_cast<T>(1e-37);
    bar[j] = below == below ? below : kNothing<T>;  // infinite maxima give NaN
  }
}

// The first entry in [begin, end) of a row whose item is at least `item`.
template <typename Index>
inline int64_t first_seen(int64_t begin, int64_t end, const Index* col, int64_t item) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (static_cast<int64_t>(col[middle]) < item) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Calls f(tile type, row) for the tiles that contain the rows [0, rows) of a panel.
template <typename T, typename F>
inline void for_tiles(int64_t rows, F&& f) {
  int64_t row = 0;
  for (; row + kLanes<T> < rows; row += 2 * kLanes<T>) f(Tile<T, 2>{}, row);
  if (row < rows) f(Tile<T, 1>{}, row);
}

// Calls f(item, skip) for the tiles that contain the items [first, last). A tile has kTileItems items from `item` on,
// of which the first `skip` belong to another tile.
template <typename F>
inline void for_items(int64_t first, int64_t last, F&& f) {
  for (int64_t item = first; item < last; item += kTileItems) {
    const int64_t fits = last - kTileItems < 0 ? 0 : last - kTileItems;
    f(item < fits ? item : fits, item < fits ? 0 : static_cast<int>(item - fits));
  }
}

}  // namespace

template <typename T, typename Index>
void cosine_topk_search(const T* u, const T* v, int64_t rows, int64_t d, int64_t first_item, int64_t last_item,
                        const int64_t* crow, const Index* col, int64_t k, int64_t capacity, T* packed, T* scores,
                        int64_t* cursor, topk_key_t<T>* keys, int32_t* items, int64_t* count, T* bar) {
  const int64_t all_rows = topk_panel_rows<T>(rows);
  const int64_t first_end = last_item - first_item < kTopkFirst ? last_item : first_item + kTopkFirst;
  Lists<T, Index> lists{crow, col, cursor, k, capacity, keys, items, count, bar};
  for (int64_t r = 0; r < all_rows; ++r) {
    T* column = packed + r / kPanel<T> * kPanel<T> * d + r % kPanel<T>;
    for (int64_t j = 0; j < d; ++j) column[j * kPanel<T>] = r < rows ? u[r * d + j] : T{0};
    cursor[r] = crow == nullptr || r >= rows ? 0 : first_seen(crow[r], crow[r + 1], col, first_item);
    count[r] = 0;
    bar[r] = -kNothing<T>;  // the bar of padding rows, which no value exceeds
  }
  // The similarities with the first items are written to memory, because they set the bars before they are added.
  for (int64_t row = 0; row < rows; row += kPanel<T>) {
    const int64_t here = smaller(rows - row, kPanel<T>);
    for_tiles<T>(here, [&](auto tile, int64_t r) {
      typename decltype(tile)::Sums sums;
      for_items(first_item, first_end, [&](int64_t item, int) {
        tile_sums<T>(packed + row * d + r, v + item * d, d, sums);
        for (int n = 0; n < kTileItems; ++n) {
          if (item + n < first_item) continue;
          std::memcpy(scores + (item + n - first_item) * kPanel<T> + r, sums[n], sizeof(sums[n]));
        }
      });
    });
    for (int64_t r = 0; r < here && crow != nullptr; ++r) {
      for (int64_t e = cursor[row + r]; e < crow[row + r + 1] && static_cast<int64_t>(col[e]) < first_end; ++e) {
        scores[(static_cast<int64_t>(col[e]) - first_item) * kPanel<T> + r] = kNothing<T>;
      }
    }
    for_tiles<T>(here, [&](auto tile, int64_t r) {
      for (int w = 0; w < tile.kRows; w += kLanes<T>) {
        first_bars(scores + r + w, first_end - first_item, k, bar + row + r + w);
      }
      for (int64_t i = here; i < r + tile.kRows; ++i) bar[row + i] = -kNothing<T>;
      typename decltype(tile)::Sums sums;
      for (int64_t item = first_item; item < first_end; item += kTileItems) {
        for (int n = 0; n < kTileItems; ++n) {
          const int64_t at = smaller(item + n, first_end - 1) - first_item;
          std::memcpy(sums[n], scores + at * kPanel<T> + r, sizeof(sums[n]));
        }
        tile.offer(sums, row + r, item, 0, smaller(kTileItems, first_end - item), lists);
      }
    });
  }
  // The other items are processed in blocks that stay in L1, together with a panel, while all panels use them.
  constexpr int64_t kBlockBytes = 20 * 1024;
  const int64_t tiles = kBlockBytes / (kTileItems * (d > 0 ? d : 1) * static_cast<int64_t>(sizeof(T)));
  const int64_t step = kTileItems * (tiles > 1 ? tiles : 1);
  for (int64_t first = first_end; first < last_item; first += step) {
    for (int64_t row = 0; row < rows; row += kPanel<T>) {
      for_items(first, smaller(first + step, last_item), [&](int64_t item, int skip) {
        for_tiles<T>(smaller(rows - row, kPanel<T>), [&](auto tile, int64_t r) {
          typename decltype(tile)::Sums sums;
          tile_sums<T>(packed + row * d + r, v + item * d, d, sums);
          tile.offer(sums, row + r, item, skip, kTileItems, lists);
        });
      });
    }
  }
}

template <typename T>
void cosine_topk_take(int64_t rows, int64_t k, int64_t capacity, topk_key_t<T>* keys, int32_t* items,
                      const int64_t* count, topk_key_t<T>* other_keys, int32_t* other_items, T* best,
                      int64_t* best_items, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    topk_key_t<T>* list = keys + r * capacity;
    int32_t* list_items = items + r * capacity;
    int64_t n = count[r];
    if (n > k) {
      keep_best<T>(list, list_items, n, k);
      n = k;
    }
    if (sort_best_first(list, list_items, other_keys, other_items, n)) {
      list = other_keys;
      list_items = other_items;
    }
    for (int64_t i = 0; i < k; ++i) {
      best[r * stride + i] = i < n ? value_of(list[i]) : kNothing<T>;
      best_items[r * stride + i] = i < n ? list_items[i] : -1;
    }
  }
}

template <typename T>
void cosine_topk_merge(int64_t parts, int64_t k, const T* part_best, const int64_t* part_items, T* best,
                       int64_t* best_items, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* from = part_best + r * parts * k;
    const int64_t* from_items = part_items + r * parts * k;
    T* to = best + r * k;
    int64_t* to_items = best_items + r * k;
    for (int64_t i = 0; i < k; ++i) {
      to[i] = from[i];
      to_items[i] = from_items[i];
    }
    for (int64_t part = 1; part < parts; ++part) {
      const T* other = from + part * k;
      const int64_t* other_items = from_items + part * k;
      // First counts how many of the k best are in `other`, then merges from the back, in place.
      int64_t a = 0, b = 0;
      while (a + b < k) other[b] > to[a] ? ++b : ++a;
      for (int64_t i = k - 1; b > 0; --i) {
        const bool second = a == 0 || !(other[b - 1] > to[a - 1]);
        to[i] = second ? other[b - 1] : to[a - 1];
        to_items[i] = second ? other_items[b - 1] : to_items[a - 1];
        second ? --b : --a;
      }
    }
  }
}

#define MMSSL_INSTANTIATE_INDEX(T, Index)                                                                            \
  template void cosine_topk_search<T, Index>(const T*, const T*, int64_t, int64_t, int64_t, int64_t, const int64_t*, \
                                             const Index*, int64_t, int64_t, T*, T*, int64_t*, topk_key_t<T>*,       \
                                             int32_t*, int64_t*, T*);
#define MMSSL_INSTANTIATE(T)                                                                             \
  MMSSL_INSTANTIATE_INDEX(T, int32_t)                                                                    \
  MMSSL_INSTANTIATE_INDEX(T, int64_t)                                                                    \
  template void cosine_topk_take<T>(int64_t, int64_t, int64_t, topk_key_t<T>*, int32_t*, const int64_t*, \
                                    topk_key_t<T>*, int32_t*, T*, int64_t*, int64_t);                    \
  template void cosine_topk_merge<T>(int64_t, int64_t, const T*, const int64_t*, T*, int64_t*, int64_t, int64_t);
MMSSL_INSTANTIATE(float)
MMSSL_INSTANTIATE(double)
#undef MMSSL_INSTANTIATE
#undef MMSSL_INSTANTIATE_INDEX

}  // namespace mmssl::MMSSL_ISA
