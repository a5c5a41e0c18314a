// Philox4x32-10 for 64 consecutive columns of a row at a time. For files in csrc/cpu/isa only.
//
// A word is in the low half of a 64-bit lane. The multiplication reads the low half only, so the low word of the
// product needs no masking, and the high word one shift. A round takes 6 vector instructions for as many counters as
// there are lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mmssl::MMSSL_ISA {

constexpr int64_t kPhiloxColumns = 64;  // columns of one call: 16 counters

#if defined(__AVX512F__)
constexpr int kPhiloxLanes = 8;
#elif defined(__AVX2__)
constexpr int kPhiloxLanes = 4;
#else
constexpr int kPhiloxLanes = 2;
#endif
typedef uint64_t PhiloxLanes __attribute__((vector_size(8 * kPhiloxLanes)));

// (a mod 2^32) (b mod 2^32) per lane.
inline PhiloxLanes multiply_low_words(PhiloxLanes a, PhiloxLanes b) {
#if defined(__AVX512F__)
  return (PhiloxLanes)_mm512_maskz_mul_epu32(
      0xff, (__m512i)a, (__m512i)b);  // masked, because the unmasked version causes a warning inside GCC 12's header
#elif defined(__AVX2__)
  return (PhiloxLanes)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PhiloxLanes)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

typedef uint32_t PhiloxWords __attribute__((vector_size(8 * kPhiloxLanes)));

// The state of consecutive counters. Two vectors are computed together, to hide the latency of the multiplication.
constexpr int kPhiloxGroups = 2;
constexpr int kPhiloxVectors = 2 * kPhiloxGroups;                   // of words
constexpr int64_t kPhiloxBlock = 4 * kPhiloxGroups * kPhiloxLanes;  // columns
static_assert(kPhiloxColumns % kPhiloxBlock == 0, "philox_columns makes whole blocks");

struct PhiloxBlock {
  PhiloxLanes c0[kPhiloxGroups], c1[kPhiloxGroups], c2[kPhiloxGroups], c3[kPhiloxGroups];

  // `column` is a multiple of 4.
  inline __attribute__((always_inline)) void start(int64_t column, uint32_t row, uint32_t offset, uint32_t stream) {
    // The first half of the counters is in the even lanes, and the second half in the odd lanes, so that words()
    // interleaves within 128 bits only.
    PhiloxLanes lane = {};
    for (int j = 0; j < kPhiloxLanes; ++j) lane[j] = static_cast<uint64_t>(j / 2 + j % 2 * (kPhiloxLanes / 2));
#pragma GCC unroll 2
    for (int g = 0; g < kPhiloxGroups; ++g) {
      c0[g] = lane + static_cast<uint64_t>(column / 4 + g * kPhiloxLanes);
      c1[g] = PhiloxLanes{} + uint64_t{row};
      c2[g] = PhiloxLanes{} + uint64_t{offset};
      c3[g] = PhiloxLanes{} + uint64_t{stream};
    }
  }

  inline __attribute__((always_inline)) void round(uint32_t k0, uint32_t k1) {
    const PhiloxLanes m0 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier0};
    const PhiloxLanes m1 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier1};
#pragma GCC unroll 2
    for (int g = 0; g < kPhiloxGroups; ++g) {
      const PhiloxLanes p0 = multiply_low_words(c0[g], m0), p1 = multiply_low_words(c2[g], m1);
      c0[g] = (p1 >> 32) ^ c1[g] ^ uint64_t { k0 };
      c2[g] = (p0 >> 32) ^ c3[g] ^ uint64_t { k1 };
      c1[g] = p1;
      c3[g] = p0;
    }
  }

  // The words in the order of their columns, after ten rounds.
  inline __attribute__((always_inline)) void words(PhiloxWords (&bits)[kPhiloxVectors]) const {
#pragma GCC unroll 2
    for (int g = 0; g < kPhiloxGroups; ++g) {
      const PhiloxLanes words01 = (c0[g] & 0xffffffffu) | (c1[g] << 32);
      const PhiloxLanes words23 = (c2[g] & 0xffffffffu) | (c3[g] << 32);
#if defined(__AVX512F__)
      bits[2 * g] = (PhiloxWords)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)words01, (__m512i)words23);
      bits[2 * g + 1] = (PhiloxWords)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)words01, (__m512i)words23);
#elif defined(__AVX2__)
      bits[2 * g] = (PhiloxWords)_mm256_unpacklo_epi64((__m256i)words01, (__m256i)words23);
      bits[2 * g + 1] = (PhiloxWords)_mm256_unpackhi_epi64((__m256i)words01, (__m256i)words23);
#elif defined(__SSE2__)
      bits[2 * g] = (PhiloxWords)_mm_unpacklo_epi64((__m128i)words01, (__m128i)words23);
      bits[2 * g + 1] = (PhiloxWords)_mm_unpackhi_epi64((__m128i)words01, (__m128i)words23);
#else
      bits[2 * g] = (PhiloxWords)PhiloxLanes{words01[0], words23[0]};
      bits[2 * g + 1] = (PhiloxWords)PhiloxLanes{words01[1], words23[1]};
#endif
    }
  }
};

// bits[j] is the word of column `column + j`, for j < 64. `column` is a multiple of 4. Equals reference.philox_bits.
inline void philox_columns(PhiloxKey key, int64_t column, uint32_t row, uint32_t offset, uint32_t stream,
                           uint32_t* bits) {
  for (int64_t first = 0; first < kPhiloxColumns; first += kPhiloxBlock) {
    PhiloxBlock block;
    block.start(column + first, row, offset, stream);
    uint32_t k0 = key.low, k1 = key.high;
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
      block.round(k0, k1);
      k0 += kPhiloxWeyl0;
      k1 += kPhiloxWeyl1;
    }
    PhiloxWords words[kPhiloxVectors];
    block.words(words);
    std::memcpy(bits + first, words, sizeof(words));  // little-endian: word 0 comes first
  }
}

}  // namespace mmssl::MMSSL_ISA
