// Philox4x32-10 for the same 64 columns of many rows. For files in csrc/cpu/isa only.
//
// Of the counter (column / 4, row, offset, stream) only the row varies between calls. It enters the first round in one
// word of four, and a round passes it on to one more. So the first round, all but one exclusive or of the second, and
// half of the third depend on the column or on the row only: the former are computed once, the latter as scalars. 15 of
// 20 multiplications remain.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/philox.h"
#include "cpu/isa/philox_lanes.h"

namespace mmssl::MMSSL_ISA {

// Moves the high word of every lane to its low half. The high half of the result is arbitrary.
template <int group>
inline __attribute__((always_inline)) PhiloxLanes high_words(PhiloxLanes a) {
#if defined(__AVX512F__)
  // AVX-512 shifts on one port of the processor and permutes on another, so every second vector is permuted.
  if constexpr (group % 2 == 1) {
    return (PhiloxLanes)_mm512_maskz_shuffle_epi32(0xffff, (__m512i)a, static_cast<_MM_PERM_ENUM>(0xf5));
  }
#endif
  return a >> 32;
}

class PhiloxRows {
 public:
  // `column` is a multiple of 4.
  PhiloxRows(PhiloxKey key, int64_t column, uint32_t offset, uint32_t stream) {
    for (int i = 0; i < kPhiloxRounds; ++i) {
      key_[i][0] = key.low + static_cast<uint32_t>(i) * kPhiloxWeyl0;
      key_[i][1] = key.high + static_cast<uint32_t>(i) * kPhiloxWeyl1;
    }
    const uint64_t of_offset = uint64_t{kPhiloxMultiplier1} * offset;
    first_ = static_cast<uint32_t>(of_offset >> 32) ^ static_cast<uint32_t>(key_[0][0]);
    const PhiloxLanes m0 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier0};
    const PhiloxLanes m1 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier1};
    for (int b = 0; b < kBlocks; ++b) {
      PhiloxBlock block;
      block.start(column + b * kPhiloxBlock, 0, offset, stream);
      for (int g = 0; g < kPhiloxGroups; ++g) {
        Column& at = column_[b][g];
        const PhiloxLanes p0 = multiply_low_words(block.c0[g], m0);
        const PhiloxLanes q1 = multiply_low_words((p0 >> 32) ^ uint64_t{stream} ^ key_[0][1], m1);
        const PhiloxLanes c0 = (q1 >> 32) ^ (of_offset & 0xffffffffu) ^ key_[1][0];
        at.c3 = multiply_low_words(c0, m0);
        at.second = p0 ^ key_[1][1];
        at.third0 = q1 ^ key_[2][0];
        at.third2 = (at.c3 >> 32) ^ key_[2][1];
      }
    }
  }

  // bits[i][j] is the word of column `column + j` of row `row + i`, for j < 64. Equals reference.philox_bits. The rows
  // are computed together, to hide the latency of the multiplication.
  template <int n>
  inline __attribute__((always_inline)) void words(uint32_t row, uint32_t (*bits)[kPhiloxColumns]) const {
    const PhiloxLanes m1 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier1};
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      PhiloxBlock block[n];
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        const uint64_t q0 = uint64_t{kPhiloxMultiplier0} * (first_ ^ (row + static_cast<uint32_t>(i)));
        const PhiloxLanes high = PhiloxLanes{} + (q0 >> 32), low = PhiloxLanes{} + (q0 & 0xffffffffu);
#pragma GCC unroll 2
        for (int g = 0; g < kPhiloxGroups; ++g) {
          const Column& at = column_[b][g];
          const PhiloxLanes r1 = multiply_low_words(at.second ^ high, m1);
          block[i].c0[g] = (r1 >> 32) ^ at.third0;
          block[i].c1[g] = r1;
          block[i].c2[g] = at.third2 ^ low;
          block[i].c3[g] = at.c3;
        }
      }
#pragma GCC unroll 10
      for (int k = 3; k < kPhiloxRounds; ++k) {
#pragma GCC unroll 4
        for (int i = 0; i < n; ++i) round(block[i], key_[k][0], key_[k][1]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        PhiloxWords found[kPhiloxVectors];
        block[i].words(found);
        std::memcpy(bits[i] + b * kPhiloxBlock, found, sizeof(found));
      }
    }
  }

 private:
  static constexpr int kBlocks = static_cast<int>(kPhiloxColumns / kPhiloxBlock);

  static inline __attribute__((always_inline)) void round(PhiloxBlock& block, uint64_t k0, uint64_t k1) {
    step<0>(block, k0, k1);
    step<1>(block, k0, k1);
  }

  template <int g>
  static inline __attribute__((always_inline)) void step(PhiloxBlock& block, uint64_t k0, uint64_t k1) {
    const PhiloxLanes m0 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier0};
    const PhiloxLanes m1 = PhiloxLanes{} + uint64_t{kPhiloxMultiplier1};
    const PhiloxLanes p0 = multiply_low_words(block.c0[g], m0), p1 = multiply_low_words(block.c2[g], m1);
    block.c0[g] = high_words<g>(p1) ^ block.c1[g] ^ k0;
    block.c2[g] = high_words<g>(p0) ^ block.c3[g] ^ k1;
    block.c1[g] = p1;
    block.c3[g] = p0;
  }

  // What a column contributes to the second and third round.
  struct Column {
    PhiloxLanes second, third0, third2, c3;
  };

  uint64_t key_[kPhiloxRounds][2];
  uint32_t first_;
  Column column_[kBlocks][kPhiloxGroups];
};

}  // namespace mmssl::MMSSL_ISA
