#include "cpu/isa/cosine_topk.h"

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mmssl::MMSSL_ISA {
namespace {

template <typename T>
constexpr T kNothing = -static_cast<T>(__builtin_inf());

// An integer that sorts as the value does; -0 and +0 share one.
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

// Fills up the last vector of keys[0, n) with the least key; returns the number of keys in whole vectors.
template <typename Key>
inline int64_t pad(Key* keys, int64_t n) {
  const int64_t whole = topk_rounded(n);
  for (int64_t i = n; i < whole; ++i) keys[i] = least_key(Key{});
  return whole;
}

// How many keys are at least `key`; n is a multiple of kVector.
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

// The k-th largest of at least k keys, bit by bit: the largest number that at least k of them reach. Stops early at a
// number that exactly k of them reach. n is a multiple of kVector.
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

// Keeps the k best of n > k candidates, in order; returns the bar that later items must exceed.
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

constexpr int64_t kBlock = 64;

// Bit j of the result: s[j] > bar. The one thing here no plain loop compiles to.
#if defined(__AVX512F__)
inline uint64_t above(const float* s, float bar) {
  const __m512 b = _mm512_set1_ps(bar);
  uint64_t bits = 0;
  for (int64_t j = 0; j < kBlock; j += 16) {
    bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(s + j), b, _CMP_GT_OQ)) << j;
  }
  return bits;
}
#elif defined(__AVX2__)
inline uint64_t above(const float* s, float bar) {
  const __m256 b = _mm256_set1_ps(bar);
  uint64_t bits = 0;
  for (int64_t j = 0; j < kBlock; j += 8) {
    const int mask = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(s + j), b, _CMP_GT_OQ));
    bits |= static_cast<uint64_t>(mask) << j;
  }
  return bits;
}
#else
inline uint64_t above(const float* s, float bar) {
  int32_t any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t j = 0; j < kBlock; ++j) any |= s[j] > bar ? 1 : 0;
  uint64_t bits = 0;
  for (int64_t j = 0; any != 0 && j < kBlock; ++j) bits |= static_cast<uint64_t>(s[j] > bar) << j;
  return bits;
}
#endif
inline uint64_t above(const double* s, double bar) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < kBlock; ++j) bits |= static_cast<uint64_t>(s[j] > bar) << j;
  return bits;
}

constexpr int64_t kMostLanes = 512;

// A bar below which none of the k best of s[0, width) lies: the k-th largest of the maxima of disjoint groups. It lets
// little more than k values through, where starting from nothing lets k log(width / k) through.
template <typename T>
inline T first_bar(const T* s, int64_t width, int64_t k) {
  int64_t lanes = kBlock;
  while (lanes < 2 * k) lanes *= 2;
  if (lanes > kMostLanes || width < 4 * lanes) return kNothing<T>;
  topk_key_t<T> largest[kMostLanes];
  for (int64_t start = 0; start < lanes; start += kBlock) {
    T best[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) best[j] = kNothing<T>;
    for (int64_t i = start; i + kBlock <= width; i += lanes) {
#pragma omp simd
      for (int64_t j = 0; j < kBlock; ++j) best[j] = s[i + j] > best[j] ? s[i + j] : best[j];
    }
    for (int64_t j = 0; j < kBlock; ++j) largest[start + j] = key_of(best[j]);
  }
  const T kth = value_of(kth_key(largest, lanes, k));
  // Strictly below: a value that equals the k-th must pass. By more than a denormal, which may be flushed to zero.
  const T below = kth - (kth < 0 ? -kth : kth) * static_cast<T>(1e-6) - static_cast<T>(1e-37);
  return below == below ? below : kNothing<T>;  // infinite maxima give NaN
}

// Orders keys[0, n), which ascend by item, best first: runs of 64 by counting how many come before each, then merges.
// Leaves the result in keys or in other, each with room for whole vectors; returns whether in other.
constexpr int64_t kRun = 64;

template <typename Key>
inline bool sort_best_first(Key* keys, int32_t* items, Key* other, int32_t* other_items, int64_t n) {
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

}  // namespace

template <typename T, typename Index>
void cosine_topk_scan(T* scores, int64_t rows, int64_t stride, int64_t first_item, int64_t width, const int64_t* crow,
                      const Index* col, int64_t* cursor, int64_t k, topk_key_t<T>* keys, int32_t* items, int64_t* count,
                      T* bar) {
  const int64_t capacity = topk_capacity(k);
  for (int64_t r = 0; r < rows; ++r) {
    T* s = scores + r * stride;
    if (crow != nullptr) {
      int64_t e = cursor[r];
      for (; e < crow[r + 1] && col[e] < first_item + width; ++e) {
        if (col[e] >= first_item) s[col[e] - first_item] = kNothing<T>;
      }
      cursor[r] = e;
    }
    topk_key_t<T>* list = keys + r * capacity;
    int32_t* list_items = items + r * capacity;
    T least = bar[r];
    int64_t n = count[r];
    if (n < 0) {
      least = first_bar(s, width, k);
      n = 0;
    }
    const auto offer = [&](int64_t i) {
      if (n == capacity) {
        least = keep_best<T>(list, list_items, n, k);
        n = k;
      }
      list[n] = key_of(s[i]);
      list_items[n] = static_cast<int32_t>(first_item + i);
      n += s[i] > least ? 1 : 0;
    };
    int64_t j = 0;
    for (; j + kBlock <= width; j += kBlock) {
      for (uint64_t bits = above(s + j, least); bits != 0; bits &= bits - 1) offer(j + __builtin_ctzll(bits));
    }
    for (; j < width; ++j) offer(j);
    count[r] = n;
    bar[r] = least;
  }
}

template <typename T>
void cosine_topk_take(int64_t rows, int64_t k, topk_key_t<T>* keys, int32_t* items, const int64_t* count, T* best,
                      int64_t* best_items, int64_t stride) {
  const int64_t capacity = topk_capacity(k), half = topk_rounded(k);
  for (int64_t r = 0; r < rows; ++r) {
    topk_key_t<T>* list = keys + r * capacity;
    int32_t* list_items = items + r * capacity;
    int64_t n = count[r];
    if (n > k) {
      keep_best<T>(list, list_items, n, k);
      n = k;
    }
    const bool moved = sort_best_first(list, list_items, list + half, list_items + half, n);
    if (moved) {
      list += half;
      list_items += half;
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
      // From the back: how many of the k come from `other`, then both are shifted into place.
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

#define MMSSL_INSTANTIATE_INDEX(T, Index)                                                                        \
  template void cosine_topk_scan<T, Index>(T*, int64_t, int64_t, int64_t, int64_t, const int64_t*, const Index*, \
                                           int64_t*, int64_t, topk_key_t<T>*, int32_t*, int64_t*, T*);
#define MMSSL_INSTANTIATE(T)                                                                                  \
  MMSSL_INSTANTIATE_INDEX(T, int32_t)                                                                         \
  MMSSL_INSTANTIATE_INDEX(T, int64_t)                                                                         \
  template void cosine_topk_take<T>(int64_t, int64_t, topk_key_t<T>*, int32_t*, const int64_t*, T*, int64_t*, \
                                    int64_t);                                                                 \
  template void cosine_topk_merge<T>(int64_t, int64_t, const T*, const int64_t*, T*, int64_t*, int64_t, int64_t);
MMSSL_INSTANTIATE(float)
MMSSL_INSTANTIATE(double)
#undef MMSSL_INSTANTIATE
#undef MMSSL_INSTANTIATE_INDEX

}  // namespace mmssl::MMSSL_ISA
