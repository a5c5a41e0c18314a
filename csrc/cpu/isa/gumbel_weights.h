// The weights E^(-s / tau) = exp(s g / tau) of a dense row in one pass, computed directly from the words of the
// generator. For files in csrc/cpu/isa only.
//
// For a float32 uniform, E is between 2^-33 and 24 ln 2. If (25 s + 1) / tau is at most 80, all weights are in the
// range of float32, and the maximum of the row is not needed. All logarithms are in base 2, which needs no constants in
// two parts. The next words are generated between the steps of the weights, because the ten rounds are integer
// instructions, which use other ports of the processor.
#pragma once

#include <cstdint>

#include "cpu/isa/lanes.h"
#include "cpu/isa/philox_lanes.h"
#include "cpu/isa/vec_math.h"

namespace mmssl::MMSSL_ISA {

typedef int32_t IntLanes __attribute__((vector_size(kVectorBytes)));
using WeightLanes = Lanes<float>[kPhiloxVectors];
static_assert(sizeof(PhiloxWords) == sizeof(Lanes<float>), "a vector of words makes a vector of weights");

// Minimax on [-1/4, 1/2], to 2.7e-8: log2(1 + r) / r, highest power first.
constexpr float kLog2[] = {0.07806677f, -0.1742303f, 0.21632491f,  -0.24272352f, 0.2881915f,
                           -0.3605759f, 0.48090208f, -0.72134846f, 1.442695f};
// Minimax on [-1/2, 1/2], to 7.5e-8: 2^f.
constexpr float kExp2[] = {0.0013276472f, 0.009675542f, 0.05550713f, 0.2402212f, 0.69314694f, 1.0000001f};

// p is the polynomial at r. Calls tick() after every second step.
template <int n, typename Tick>
inline __attribute__((always_inline)) void polynomial(const float (&coefficient)[n], const WeightLanes& r,
                                                      WeightLanes& p, Tick&& tick) {
#pragma GCC unroll 4
  for (int g = 0; g < kPhiloxVectors; ++g) p[g] = r[g] * coefficient[0] + coefficient[1];
#pragma GCC unroll 8
  for (int i = 2; i < n; ++i) {
#pragma GCC unroll 4
    for (int g = 0; g < kPhiloxVectors; ++g) p[g] = p[g] * r[g] + coefficient[i];
    if (i % 2 == 0) tick();
  }
}

// weight = 2^(level - rate log2(-log2(1 - v))) with the uniform v of the bits. Calls tick() ten times.
template <typename Tick>
inline __attribute__((always_inline)) void weights_of_bits(const PhiloxWords (&bits)[kPhiloxVectors], float rate,
                                                           float level, WeightLanes& weight, Tick&& tick) {
  constexpr int32_t kLeast = 0x3f400000;  // smallest mantissa: 3/4
  WeightLanes r, exponent, p;
  IntLanes whole[kPhiloxVectors];
#pragma GCC unroll 4
  for (int g = 0; g < kPhiloxVectors; ++g) {
    const Lanes<float> v = __builtin_convertvector(bits[g], Lanes<float>) * 0x1p-32f + 0x1p-33f;
    const Lanes<float> rest = 1.0f - v, rounded_up = Lanes<float>{} + 0x1p-24f;
    const IntLanes shifted = (IntLanes)(rest > rounded_up ? rest : rounded_up) - kLeast;
    const Lanes<float> mantissa = (Lanes<float>)((shifted & 0x7fffff) + kLeast);
    r[g] = v < 0.25f ? -v : mantissa - 1.0f;  // avoids the rounding error of 1 - v for small v
    exponent[g] = __builtin_convertvector(shifted >> 23, Lanes<float>);
  }
  polynomial(kLog2, r, p, tick);
#pragma GCC unroll 4
  for (int g = 0; g < kPhiloxVectors; ++g) {
    const IntLanes shifted = (IntLanes)(-(p[g] * r[g] + exponent[g])) - kLeast;
    r[g] = (Lanes<float>)((shifted & 0x7fffff) + kLeast) - 1.0f;
    exponent[g] = __builtin_convertvector(shifted >> 23, Lanes<float>);
  }
  polynomial(kLog2, r, p, tick);
#pragma GCC unroll 4
  for (int g = 0; g < kPhiloxVectors; ++g) {
    constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer, left in the low bits
    const Lanes<float> x = level - rate * (p[g] * r[g] + exponent[g]), rounded = x + kRound;
    whole[g] = (IntLanes)rounded << 23;
    r[g] = x - (rounded - kRound);
  }
  polynomial(kExp2, r, p, tick);
#pragma GCC unroll 4
  for (int g = 0; g < kPhiloxVectors; ++g) weight[g] = (Lanes<float>)((IntLanes)p[g] + whole[g]);
}

// weight[i] = c exp(s g / tau) for the columns i < n, with a factor c that makes the weights moderate. Returns the sum
// of the weights. Requires (25 s + 1) / tau <= 80.
static __attribute__((noinline)) double gumbel_weights(PhiloxKey key, uint32_t row, uint32_t offset, double rate,
                                                       int64_t n, float* weight) {
  const float power = static_cast<float>(rate);
  // log2(ln 2) converts log E to base 2. The smallest E of n draws, which has the largest weight, is about 1 / n.
  const float level = static_cast<float>(rate * (0.5287663729448977 - 1.4426950408889634 * __builtin_log(n)));
  PhiloxBlock next;
  PhiloxWords bits[kPhiloxVectors];
  int round = 0;
  uint32_t k0[kPhiloxRounds], k1[kPhiloxRounds];
  for (int i = 0; i < kPhiloxRounds; ++i) {
    k0[i] = key.low + static_cast<uint32_t>(i) * kPhiloxWeyl0;
    k1[i] = key.high + static_cast<uint32_t>(i) * kPhiloxWeyl1;
  }
  const auto tick = [&]() __attribute__((always_inline)) {
    next.round(k0[round], k1[round]);
    ++round;
  };
  next.start(0, row, offset, kStreamDense);
  while (round < kPhiloxRounds) tick();
  double sum = 0;
  constexpr int64_t kStretch = 16 * kPhiloxBlock;  // columns whose sum is in float32
  for (int64_t first = 0; first < n; first += kStretch) {
    WeightLanes sums = {};
    for (int64_t column = first; column < n && column < first + kStretch; column += kPhiloxBlock) {
      next.words(bits);
      next.start(column + kPhiloxBlock, row, offset, kStreamDense);
      round = 0;
      WeightLanes w;
      weights_of_bits(bits, power, level, w, tick);
      if (column + kPhiloxBlock > n) {  // the last block has columns beyond the row
        float kept[kPhiloxBlock] = {};
        std::memcpy(kept, w, static_cast<size_t>(n - column) * sizeof(float));
        std::memcpy(weight + column, kept, static_cast<size_t>(n - column) * sizeof(float));
        std::memcpy(w, kept, sizeof(w));
      } else {
        std::memcpy(weight + column, w, sizeof(w));
      }
#pragma GCC unroll 4
      for (int g = 0; g < kPhiloxVectors; ++g) sums[g] += w[g];
    }
    sum += sum_lanes<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return sum;
}

}  // namespace mmssl::MMSSL_ISA
