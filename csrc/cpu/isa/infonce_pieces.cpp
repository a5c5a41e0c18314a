#include "cpu/isa/infonce_pieces.h"

#if defined(__AVX512F__)
// GCC 12 warns about its own intrinsics, which leave an operand undefined that is not used.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstring>

// The level avx512 includes neither AVX512-BF16 nor AMX. The caller has checked that the processor has them.
#define MMSSL_BF16 __attribute__((target("avx512bf16")))
#define MMSSL_AMX __attribute__((target("avx512bf16,amx-tile,amx-bf16")))

namespace mmssl::MMSSL_ISA {
namespace {

constexpr int64_t kLane = 16;

// 2^x to 1 ulp; 0 for -inf, NaN for NaN. The polynomial is a minimax fit of 2^f on [0, 1) that was computed for this
// file.
inline __m512 exp2_ps(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, 0x01);  // x - floor(x), 0 for -inf
  __m512 p = _mm512_set1_ps(0.000217022549f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00124396884f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00967884064f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0554833412f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24022983f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693147004f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);  // p 2^floor(x)
}

struct Two {
  __m512 low, high;  // 32 values
};

// Rounds 32 values to bfloat16, and leaves the rest in x.
MMSSL_BF16 inline __m512i next_piece(Two& x, bool last) {
  const __m512i piece = (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low);
  if (!last) {
    const __m512i low = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(piece)), 16);
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(piece, 1)), 16);
    x.low = _mm512_sub_ps(x.low, _mm512_castsi512_ps(low));
    x.high = _mm512_sub_ps(x.high, _mm512_castsi512_ps(high));
  }
  return piece;
}

// Entries 16 half to 16 half + 15 of a and b in turns.
inline __m512i interleave(__m512i a, __m512i b, int half) {
  const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  return _mm512_permutex2var_epi16(a, half == 0 ? first : _mm512_add_epi16(first, _mm512_set1_epi16(16)), b);
}

template <int pieces>
MMSSL_BF16 void split_rows(const float* x, const float* scale, int64_t rows, int64_t d, int64_t n_rows, int64_t width,
                           BFloat16* out) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const __m512 factor = _mm512_set1_ps(r < rows && scale != nullptr ? scale[r] : 1.0f);
    for (int64_t j = 0; j < width; j += 2 * kLane) {
      Two value;
      const int64_t left = r < rows && j < d ? d - j : 0;
      const uint32_t mask = left >= 32 ? ~uint32_t{0} : (uint32_t{1} << left) - 1;
      const float* from = x + (left > 0 ? r * d + j : 0);
      value.low = _mm512_mul_ps(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from), factor);
      value.high = _mm512_mul_ps(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + kLane), factor);
      for (int p = 0; p < pieces; ++p) {
        _mm512_storeu_si512(out + (p * n_rows + r) * width + j, next_piece(value, p == pieces - 1));
      }
    }
  }
}

// Adds 16 numbers to sum.
inline void add_to(double* sum, __m512 x) {
  const __m256 low = _mm512_castps512_ps256(x), high = _mm512_extractf32x8_ps(x, 1);
  _mm512_storeu_pd(sum, _mm512_add_pd(_mm512_loadu_pd(sum), _mm512_cvtps_pd(low)));
  _mm512_storeu_pd(sum + 8, _mm512_add_pd(_mm512_loadu_pd(sum + 8), _mm512_cvtps_pd(high)));
}

// With `sum`, the only shift is that of a cosine of 1, the largest.
template <int pieces>
MMSSL_BF16 void weigh(const float* s, int64_t keys, int64_t width, float scale, const float* shift, BFloat16* rows,
                      BFloat16* pairs, double* sum) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t a = 0; a < width; a += 2 * kLane) {
    const __m512 low_shift = sum == nullptr ? _mm512_loadu_ps(shift + a) : factor;
    const __m512 high_shift = sum == nullptr ? _mm512_loadu_ps(shift + a + kLane) : factor;
    Two added{_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t k = 0; k < kPiecesStep; k += 2) {
      Two value[2];
      for (int64_t i = 0; i < 2; ++i) {
        const float* from = s + (k + i) * width + a;
        value[i].low = exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(from), factor, low_shift));
        value[i].high = exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(from + kLane), factor, high_shift));
        if (k + i >= keys) value[i].low = value[i].high = _mm512_setzero_ps();
        added.low = _mm512_add_ps(added.low, value[i].low);
        added.high = _mm512_add_ps(added.high, value[i].high);
      }
      for (int p = 0; p < pieces; ++p) {
        const __m512i even = next_piece(value[0], p == pieces - 1), odd = next_piece(value[1], p == pieces - 1);
        BFloat16* row = rows + (p * kPiecesKeys + k) * width + a;
        BFloat16* pair = pairs + (p * kPiecesKeys + k) * width + 2 * a;
        _mm512_storeu_si512(row, even);
        _mm512_storeu_si512(row + width, odd);
        _mm512_storeu_si512(pair, interleave(even, odd, 0));
        _mm512_storeu_si512(pair + 2 * kLane, interleave(even, odd, 1));
      }
    }
    if (sum == nullptr) continue;
    add_to(sum + a, added.low);
    add_to(sum + a + kLane, added.high);
  }
}

// The intrinsics of the matrix unit do not tell GCC that they read and write memory.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

// Loads the 2 x 2 tiles of 16 x 16 entries of c into the registers 0 to 3, or stores them.
MMSSL_AMX inline void load_sums(const float* c, int64_t n) {
  _tile_loadd(0, c, 4 * n);
  _tile_loadd(1, c + kLane, 4 * n);
  _tile_loadd(2, c + kLane * n, 4 * n);
  _tile_loadd(3, c + kLane * n + kLane, 4 * n);
}
MMSSL_AMX inline void store_sums(float* c, int64_t n) {
  _tile_stored(0, c, 4 * n);
  _tile_stored(1, c + kLane, 4 * n);
  _tile_stored(2, c + kLane * n, 4 * n);
  _tile_stored(3, c + kLane * n + kLane, 4 * n);
}

// Load 32 rows of a factor, 32 columns wide, or 32 columns, 32 rows deep.
MMSSL_AMX inline void load_left(const BFloat16* a, int64_t k) {
  _tile_loadd(4, a, 2 * k);
  _tile_loadd(5, a + kLane * k, 2 * k);
}
MMSSL_AMX inline void load_right(const BFloat16* b, int64_t n) {
  _tile_loadd(6, b, 4 * n);
  _tile_loadd(7, b + 2 * kLane, 4 * n);
}
MMSSL_AMX inline void multiply() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

constexpr int64_t kTileRows = 4;  // with 4 vectors of columns, 16 sums are in registers

// `vectors` times 16 columns of c. An instruction multiplies two entries of a row of a with two of each column of b.
template <int vectors>
MMSSL_BF16 inline void vector_columns(int64_t m, int64_t n, int64_t k, const BFloat16* a, int64_t row_step,
                                      int64_t pair_step, const BFloat16* b, bool add, float* c) {
  for (int64_t row = 0; row < m; row += kTileRows, a += kTileRows * row_step, c += kTileRows * n) {
    __m512 sum[kTileRows][vectors];
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sum[r][v] = add ? _mm512_loadu_ps(c + r * n + v * kLane) : _mm512_setzero_ps();
      }
    }
    for (int64_t i = 0; i < k / 2; ++i) {
      __m512bh right[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + 2 * (i * n + v * kLane));
#pragma GCC unroll 4
      for (int r = 0; r < kTileRows; ++r) {
        int32_t pair;
        std::memcpy(&pair, a + r * row_step + i * pair_step, sizeof(pair));
        const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, right[v]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(c + r * n + v * kLane, sum[r][v]);
    }
  }
}

}  // namespace

MMSSL_BF16 void vector_product(int64_t m, int64_t n, int64_t k, const BFloat16* a, bool in_pairs, const BFloat16* b,
                               bool add, float* c) {
  const int64_t row_step = in_pairs ? 2 : k, pair_step = in_pairs ? 2 * m : 2;
  int64_t j = 0;
  for (; j + 4 * kLane <= n; j += 4 * kLane) {
    vector_columns<4>(m, n, k, a, row_step, pair_step, b + 2 * j, add, c + j);
  }
  if (j < n) vector_columns<2>(m, n, k, a, row_step, pair_step, b + 2 * j, add, c + j);
}

MMSSL_AMX void matrix_unit_begin() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shapes;
  memory_barrier();
  _tile_loadconfig(&shapes);
}

MMSSL_AMX void matrix_unit_end() { _tile_release(); }

MMSSL_AMX void pieces_product(int64_t m, int64_t n, int64_t k, const BFloat16* a, int64_t a_size, const BFloat16* b,
                              int64_t b_size, int pieces, bool add, float* c) {
  memory_barrier();
  for (int64_t row = 0; row < m; row += 32) {
    for (int64_t column = 0; column < n; column += 32) {
      if (add) {
        load_sums(c + row * n + column, n);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      const BFloat16* left = a + row * k;
      const BFloat16* right = b + 2 * column;
      for (int64_t i = 0; i < k; i += 32, left += 32, right += 32 * n) {
        if (pieces == 1) {
          load_left(left, k);
          load_right(right, n);
          multiply();
          continue;
        }
        // In an order in which every product uses a factor of the one before: loads from L2 cost as much as products.
        load_left(left + 2 * a_size, k);
        load_right(right, n);
        multiply();
        load_left(left + a_size, k);
        multiply();
        load_right(right + b_size, n);
        multiply();
        load_left(left, k);
        multiply();
        load_right(right, n);
        multiply();
        load_right(right + 2 * b_size, n);
        multiply();
      }
      store_sums(c + row * n + column, n);
    }
  }
  memory_barrier();
}

void pieces_rows(const float* x, const float* scale, int64_t rows, int64_t d, int64_t n_rows, int64_t width, int pieces,
                 BFloat16* out) {
  if (pieces == 1) return split_rows<1>(x, scale, rows, d, n_rows, width, out);
  split_rows<3>(x, scale, rows, d, n_rows, width, out);
}

void pieces_transposed(const BFloat16* rows, int64_t n_rows, int64_t width, int pieces, BFloat16* out) {
  for (int p = 0; p < pieces; ++p, rows += n_rows * width, out += n_rows * width) {
    for (int64_t j = 0; j < width; ++j) {
      for (int64_t r = 0; r < n_rows; ++r) out[j * n_rows + r] = rows[r * width + j];
    }
  }
}

void pieces_transposed_pairs(const BFloat16* rows, int64_t n_rows, int64_t width, int pieces, BFloat16* out) {
  for (int p = 0; p < pieces; ++p, rows += n_rows * width, out += n_rows * width) {
    for (int64_t j = 0; j < width; j += 2) {
      for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t i = 0; i < 2; ++i) out[j * n_rows + 2 * r + i] = rows[r * width + j + i];
      }
    }
  }
}

void pieces_pairs(const BFloat16* rows, int64_t n_rows, int64_t width, int pieces, BFloat16* out) {
  for (int64_t r = 0; r < pieces * n_rows; r += 2) {
    for (int64_t j = 0; j < width; j += 2 * kLane) {
      const __m512i even = _mm512_loadu_si512(rows + r * width + j);
      const __m512i odd = _mm512_loadu_si512(rows + (r + 1) * width + j);
      _mm512_storeu_si512(out + r * width + 2 * j, interleave(even, odd, 0));
      _mm512_storeu_si512(out + r * width + 2 * j + 2 * kLane, interleave(even, odd, 1));
    }
  }
}

void pieces_sum(const float* s, int64_t keys, int64_t width, float scale, float shift, double* sum) {
  const __m512 factor = _mm512_set1_ps(scale), subtract = _mm512_set1_ps(shift);
  for (int64_t a = 0; a < width; a += 2 * kLane) {
    __m512 low = _mm512_setzero_ps(), high = low;
    for (int64_t k = 0; k < keys; ++k) {
      const float* from = s + k * width + a;
      low = _mm512_add_ps(low, exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(from), factor, subtract)));
      high = _mm512_add_ps(high, exp2_ps(_mm512_fmsub_ps(_mm512_loadu_ps(from + kLane), factor, subtract)));
    }
    float part[2 * kLane];
    _mm512_storeu_ps(part, low);
    _mm512_storeu_ps(part + kLane, high);
    for (int64_t i = 0; i < 2 * kLane; ++i) sum[a + i] += part[i];
  }
}

void pieces_weigh(const float* s, int64_t keys, int64_t width, float scale, const float* shift, int pieces,
                  int64_t first_key, BFloat16* rows, BFloat16* pairs) {
  rows += first_key * width;
  pairs += first_key * width;
  if (pieces == 1) return weigh<1>(s, keys, width, scale, shift, rows, pairs, nullptr);
  weigh<3>(s, keys, width, scale, shift, rows, pairs, nullptr);
}

void pieces_exp(const float* s, int64_t keys, int64_t width, float scale, int64_t first_key, BFloat16* rows,
                BFloat16* pairs, double* sum) {
  weigh<1>(s, keys, width, scale, nullptr, rows + first_key * width, pairs + first_key * width, sum);
}

}  // namespace mmssl::MMSSL_ISA
#endif
