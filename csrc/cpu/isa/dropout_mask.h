// The mask of dropout for the same 64 columns of consecutive rows. For files in csrc/cpu/isa only.
#pragma once

#include <cstdint>

#include "common/dropout.h"
#include "cpu/isa/philox_rows.h"

namespace mmssl::MMSSL_ISA {

class DropoutMask {
 public:
  DropoutMask(const Dropout& dropout, int64_t column)
      : threshold_(dropout.threshold), words_(philox_key(dropout.seed), column, dropout.offset, kStreamDropout) {}

  // Bit j is 1 if the entry of column `column + j` is kept. The rows are ascending without gaps, from an even row on.
  inline __attribute__((always_inline)) uint64_t row(int64_t r) {
    if (threshold_ == 0) return ~uint64_t{0};
    if (r % kAhead == 0) {
      uint32_t bits[kAhead][kPhiloxColumns];
      words_.words<kAhead>(static_cast<uint32_t>(r), bits);
      for (int i = 0; i < kAhead; ++i) kept_[i] = not_below(bits[i]);
    }
    return kept_[r % kAhead];
  }

 private:
  static constexpr int kAhead = 2;  // rows that are computed together

  inline __attribute__((always_inline)) uint64_t not_below(const uint32_t* bits) const {
    uint64_t kept = 0;
#if defined(__AVX512F__)
    const __m512i threshold = _mm512_set1_epi32(static_cast<int>(threshold_));
    for (int g = 0; g < 4; ++g) {
      const __mmask16 mask = _mm512_cmpge_epu32_mask(_mm512_loadu_si512(bits + 16 * g), threshold);
      kept |= static_cast<uint64_t>(mask) << (16 * g);
    }
#else
    for (int half = 0; half < 2; ++half) {
      uint32_t word = 0;
#pragma omp simd reduction(| : word)
      for (uint32_t j = 0; j < 32; ++j) word |= bits[32 * half + j] >= threshold_ ? uint32_t{1} << j : 0;
      kept |= static_cast<uint64_t>(word) << (32 * half);
    }
#endif
    return kept;
  }

  uint32_t threshold_;
  PhiloxRows words_;
  uint64_t kept_[kAhead] = {};
};

// factor[j] = scale if bit j of `kept` is 1, else 0, for j < 64.
inline __attribute__((always_inline)) void dropout_factors(uint64_t kept, float scale, float* factor) {
#if defined(__AVX512F__)
  for (int g = 0; g < 4; ++g) {
    const __mmask16 mask = static_cast<__mmask16>(kept >> (16 * g));
    _mm512_storeu_ps(factor + 16 * g, _mm512_maskz_mov_ps(mask, _mm512_set1_ps(scale)));
  }
#else
  for (int half = 0; half < 2; ++half) {
    const uint32_t word = static_cast<uint32_t>(kept >> (32 * half));
#pragma omp simd
    for (uint32_t j = 0; j < 32; ++j) factor[32 * half + j] = (word & uint32_t{1} << j) != 0 ? scale : 0;
  }
#endif
}
inline __attribute__((always_inline)) void dropout_factors(uint64_t kept, double scale, double* factor) {
#pragma omp simd
  for (int64_t j = 0; j < kPhiloxColumns; ++j) factor[j] = (kept & uint64_t{1} << j) != 0 ? scale : 0;
}

}  // namespace mmssl::MMSSL_ISA
